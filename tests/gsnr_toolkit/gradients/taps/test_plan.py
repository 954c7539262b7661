"""Plans: their content, the parameters they leave to other engines, and the batches they are made on."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit.errors import NonFiniteError
from gsnr_toolkit.gradients.taps import engine as taps
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.taps.forward import cycled, run_forward
from gsnr_toolkit.gradients.taps.ownership import Owner
from gsnr_toolkit.gradients.taps.plan import make_plan
from gsnr_toolkit.moments.by_parameter import Moments
from tests.support.cases import CASES
from tests.support.tapped import Model, assert_same, make_task, only_plan, tapped, truth, used_rules


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def plan_of(task, batch):
    def probe(count):
        return run_forward(task, cycled(batch, count)).graph

    return make_plan(probe, {name: tuple(param.shape) for name, param in task.params.items()})[0]


def test_one_plan_serves_every_batch_size():
    task, engine = make_task(mlp()), TapsEngine()
    signatures = {run_forward(task, (rand(n, 4),)).graph.signature for n in (2, 3, 5, 8)}
    assert len(signatures) == 1
    for count in (8, 2, 5, 13):
        batch = (rand(count, 4),)
        assert_same(tapped(task, batch, engine), truth(task, batch))
    assert engine._plans.keys() == signatures


def test_graphs_of_one_model_have_one_signature_whatever_the_batch():
    vit, net = CASES["open_clip ViT"], CASES["mlp, binary (N, 1)"]
    task, batch = make_task(vit.model(), None), vit.batch()
    signatures = {run_forward(task, cycled(batch, count)).graph.signature for count in (2, 3, 5, 8)}
    assert len(signatures) == 1
    assert run_forward(make_task(net.model(), None), net.batch()).graph.signature not in signatures


def test_content_of_a_plan():
    plan = plan_of(make_task(mlp()), (rand(5, 4),))
    assert plan.expected() == {"0.weight": 1, "0.bias": 1, "2.weight": 1, "2.bias": 1}
    assert plan.placed == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert {use.owner for use in plan.uses} == {Owner(0)}
    assert (plan.other, plan.unreached) == ({}, ())
    smaller = plan.without({"2.weight": "no reason"})
    assert smaller.expected() == {"0.weight": 1, "0.bias": 1, "2.bias": 1}
    assert smaller.other == {"2.weight": "no reason"}
    assert "2.weight" in plan.expected()


def test_unreached_parameters_are_named():
    model = Model(lambda p, x: x @ p["used"], used=rand(4, 2), unused=rand(3))
    plan = plan_of(make_task(model), (rand(5, 4),))
    assert plan.unreached == ("p.unused",)
    task, batch = make_task(model), (rand(6, 4),)
    moments = Moments()
    TapsEngine().accumulate(task, batch, moments, chunk_size=4)
    assert moments.count == 6
    assert moments.is_zero("p.unused")


def test_reasons_for_leaving_a_parameter_to_another_engine():
    def use(p, x):
        return torch.cat([F.bilinear(x, x, p["bilinear"]), torch.cosine_similarity(x, p["cosine"])[:, None]], 1)

    model = Model(use, bilinear=rand(2, 4, 4), cosine=rand(1, 4))
    task, batch, engine = make_task(model), (rand(6, 4),), TapsEngine()
    assert_same(tapped(task, batch, engine), truth(task, batch))
    assert set(engine.other()) <= {"p.bilinear", "p.cosine"}
    assert engine.other()
    assert all(reason.startswith(("no rule for ", "which rows of ")) for reason in engine.other().values())
    moments = Moments()
    engine.accumulate(task, batch, moments, chunk_size=4)
    for name, grad in truth(task, batch).items():
        torch.testing.assert_close(moments.mean[name], grad.mean(0), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(moments.m2[name], 5 * grad.var(0), rtol=1e-9, atol=1e-12)


WITHOUT_RULE = {
    "Maximum": lambda p, x: torch.maximum(x @ p["w"], p["odd"]),
    "Cdist": lambda p, x: torch.cdist(x, p["odd"][:, None].expand(3, 4)) @ p["w"][:3],
}


@pytest.mark.parametrize("operation", WITHOUT_RULE)
def test_an_operation_without_a_rule_is_named(operation):
    model = Model(WITHOUT_RULE[operation], w=rand(4, 3), odd=rand(3))
    task, batch, engine = make_task(model), (rand(6, 4),), TapsEngine()
    assert_same(tapped(task, batch, engine), truth(task, batch))
    assert engine.other() == {"p.odd": f"no rule for {operation}"}
    shares = engine.shares(task)
    assert shares.pop("taps") == ["p.w"]
    assert list(shares.values()) == [["p.odd"]]
    assert engine.notes() == [
        f"1 parameters, first 'p.odd', were measured by another engine than taps: no rule for {operation}"
    ]


def test_a_function_of_parameters_alone_is_pulled_back():
    model = Model(lambda p, x: torch.tanh(x @ (p["a"] @ p["b"]).exp()) * p["a"].sum(), a=0.1 * rand(4, 2), b=rand(2, 3))
    task, batch, engine = make_task(model), (rand(6, 4),), TapsEngine()
    assert_same(tapped(task, batch, engine), truth(task, batch))
    plan = only_plan(engine)
    assert plan.other == {}
    routes = {(route.name, route.views) for use in plan.uses for route in use.routes}
    assert routes == {("p.a", None), ("p.b", None)}


def test_a_view_that_strides_forbid_is_pulled_back():
    model = Model(lambda p, x: x @ p["w"].t().reshape(4, 6), w=rand(8, 3))
    task, batch, engine = make_task(model), (rand(6, 4),), TapsEngine()
    assert_same(tapped(task, batch, engine), truth(task, batch))
    assert [route.views for use in only_plan(engine).uses for route in use.routes] == [None]


def test_parts_of_a_packed_parameter_are_placed():
    def use(p, x):
        first, second = p["w"].split([24, 18])
        return torch.tanh(x @ first.view(4, 6)) @ second.view(6, 3)

    task, batch, engine = make_task(Model(use, w=rand(42))), (rand(6, 4),), TapsEngine()
    assert_same(tapped(task, batch, engine), truth(task, batch))
    assert only_plan(engine).placed == {"p.w"}


def test_gradients_that_are_not_finite_are_refused():
    task = make_task(mlp(), lambda model, batch: model(batch[0]).square().sum(1).mul(0).sqrt())
    with pytest.raises(NonFiniteError, match=r"sqrt\(0\)"):
        TapsEngine().accumulate(task, (rand(8, 4),), Moments(), chunk_size=8)


class Gate(torch.autograd.Function):
    """Stop all gradients while closed: they are None, not zeros."""

    closed = False

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None if Gate.closed else grad


def test_gradients_that_do_not_arrive_are_zero(monkeypatch):
    model = Model(lambda p, x: Gate.apply(torch.tanh(x @ p["w"]) @ p["v"]) + x @ p["u"], w=rand(4, 3), v=rand(3, 2),
                  u=rand(4, 2))  # fmt: skip
    task, batch, engine = make_task(model), (rand(7, 4),), TapsEngine()
    assert_same(tapped(task, batch, engine), truth(task, batch))
    monkeypatch.setattr(Gate, "closed", True)
    grads = tapped(task, batch, engine)
    assert_same(grads, truth(task, batch))
    assert [name for name, grad in grads.items() if grad.any()] == ["p.u"]
    assert len(engine._plans) == 1
    closed = TapsEngine()  # a plan made while the gate is closed
    assert_same(tapped(task, batch, closed), truth(task, batch))
    monkeypatch.setattr(Gate, "closed", False)
    assert_same(tapped(task, batch, closed), truth(task, batch))


def test_five_samples_decide_what_three_leave_open():
    """Sample i has a gradient in token i only, so that blocks and turns both fit the first three samples."""
    model = Model(lambda p, x: ((x[..., :4] @ p["w"]) * x[..., 4:]).sum(1), w=rand(4, 2))
    mask = torch.eye(3, dtype=torch.float64).repeat(3, 1)[:7, :, None]
    task, batch, engine = make_task(model), (torch.cat([rand(7, 3, 4), mask], -1),), TapsEngine()
    plan_on = []
    original = taps.cycled

    def counted(rows, count):
        plan_on.append(count)
        return original(rows, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(taps, "cycled", counted)
        assert_same(tapped(task, batch, engine), truth(task, batch))
    assert plan_on == [3, 5, 2]
    (use,) = only_plan(engine).uses
    assert use.owner == Owner(0)


def test_fewer_rows_than_a_plan_needs_are_repeated():
    task, batch, engine = make_task(mlp()), (rand(2, 4),), TapsEngine()
    assert_same(tapped(task, batch, engine), truth(task, batch))
    assert used_rules(engine, task, batch) == {("AddmmBackward", 0), ("AddmmBackward", 2)}
    assert engine.prepare(task, batch) == 1.0


@pytest.mark.parametrize("classes", [3, 6])
@pytest.mark.parametrize("learned", [False, True])
def test_classes_looked_up_in_an_adapted_table_are_not_taken_for_samples(classes, learned):
    """The first three samples are of different classes, so that rows of the table look like rows of samples."""
    table = rand(classes, 4)
    model = Model(
        lambda p, x: ((p["table"] if learned else table) @ p["w"])[x[:, 0].long()].tanh() * x[:, 1:],
        w=rand(4, 5),
        **({"table": table} if learned else {}),
    )
    labels = torch.tensor([0, 1, 2, 2, 0, 0, 2, 1, 1]) * (classes // 3)
    batch = (torch.cat([labels[:, None].double(), rand(9, 5)], 1),)
    task = make_task(model)
    for chunk_size in (9, 6, 3):
        engine = TapsEngine()
        chunks = list(engine(task, batch, chunk_size=chunk_size))
        assert_same(
            {name: torch.cat([chunk.grads[name] for chunk in chunks]) for name in task.params}, truth(task, batch)
        )
        assert engine.other()["p.w"] == "which rows of Mm belong to which sample could not be determined"


def test_rows_are_repeated_from_the_front():
    assert cycled((torch.arange(2), ["a"]), 5)[0].tolist() == [0, 1, 0, 1, 0]
