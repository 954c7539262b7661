"""How parameters are followed to their uses: whose rows, which rule, and what is left to another engine."""

import pytest
import torch
from cases import CASES
from torch import nn

from gsnr_toolkit.errors import MixedSamplesError, NonFiniteError
from gsnr_toolkit.gradients import taps
from gsnr_toolkit.gradients.functional import GradientTask, trainable_params
from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.ownership import Evidence, Owner, common_owner
from gsnr_toolkit.gradients.rules import RULES
from gsnr_toolkit.gradients.taps import TapsEngine, cycled, run_forward
from gsnr_toolkit.gradients.terms import Stored
from gsnr_toolkit.losses import resolve_loss


def _task(model, loss_fn=None):
    return GradientTask(model, trainable_params(model), resolve_loss(loss_fn))


def _data(count=5, width=4):
    torch.manual_seed(0)
    return torch.randn(count, width, dtype=torch.float64), torch.arange(count) % 2


def _compare(engine, task, batch):
    (chunk,) = engine(task, batch, chunk_size=8)
    for row, one in enumerate(loop_gradients(task, batch)):
        for name, grad in one.grads.items():
            torch.testing.assert_close(chunk.grads[name][row], grad[0], rtol=1e-9, atol=1e-12)


def test_graphs_of_one_model_have_one_signature_whatever_the_batch():
    case = CASES["open_clip ViT"]
    task, batch = _task(case.model()), case.batch()
    graphs = [run_forward(task, cycled(batch, count)).graph for count in (2, 3, 5, 8)]
    assert len({graph.signature for graph in graphs}) == 1
    other = run_forward(_task(CASES["mlp, binary (N, 1)"].model()), CASES["mlp, binary (N, 1)"].batch()).graph
    assert other.signature != graphs[0].signature


@pytest.mark.parametrize(("owner", "expected"), [(Owner(0), [[0, 1], [2, 3]]), (Owner(0, True), [[0, 2], [1, 3]])])
def test_owners_deal_rows_out(owner, expected):
    assert owner.split(torch.arange(4), 2).tolist() == expected
    assert owner.split(torch.arange(4).repeat(3, 1).T, 2).shape == (2, 2, 3)


def test_a_class_token_alone_leaves_open_what_a_second_count_settles():
    """With T = 4 tokens and N = 3 samples, rows 0, 4, 8 are also 0, 1, 2 modulo 3."""
    found = []
    for count in (3, 5):
        evidence = Evidence.of_shape((4 * count, 7), count)
        for sample in range(count):
            gradient = torch.zeros(4 * count, 7)
            gradient[4 * sample] = 1
            evidence.see(gradient, sample, count)
        found.append(((4 * count, 7), evidence))
    assert common_owner(found[:1], [3]) is None
    assert common_owner(found, [3, 5]) == Owner(0)


def test_entries_that_two_samples_reach_are_shared():
    evidence = Evidence.of_shape((3, 2), 3)
    for sample in range(2):
        evidence.see(torch.ones(3, 2), sample, 3)
    assert evidence.overlap
    assert not evidence.candidates
    with pytest.raises(NonFiniteError, match="which rows belong to which sample"):
        evidence.see(torch.full((3, 2), float("nan")), 2, 3)


class _Centred(nn.Linear):
    def forward(self, x):
        hidden = super().forward(x)
        return hidden - hidden.mean(0)


@pytest.mark.parametrize(
    "model",
    [
        lambda: nn.Sequential(_Centred(4, 3), nn.Tanh(), nn.Linear(3, 1)),
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1)).train(),
    ],
)
def test_mixed_samples_are_an_error(model):
    with pytest.raises(MixedSamplesError, match="depends on that sample alone"):
        next(TapsEngine()(_task(model().double()), _data(), chunk_size=5))


def test_a_wrong_rule_fails_the_self_check_and_loses_its_parameters(monkeypatch):
    right = RULES["AddmmBackward"]

    def wrong(use):
        term = right(use)
        return Stored(2 * term.samples(0, use.count)) if use.slot == 0 else term

    monkeypatch.setitem(taps.RULES, "AddmmBackward", wrong)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    task, engine = _task(model), TapsEngine()
    _compare(engine, task, _data())
    assert set(engine.other()) == {"0.bias", "2.bias"}
    assert engine.shares(task)["taps"] == ["0.weight", "2.weight"]
    assert "off by 1 from one backward per sample" in engine.notes()[0]
    unchecked = TapsEngine(check=False)
    (chunk,) = unchecked(task, _data(), chunk_size=5)
    assert unchecked.other() == {}
    assert float((chunk.grads["2.bias"] / next(loop_gradients(task, _data())).grads["2.bias"])[0]) == pytest.approx(2)


class _Odd(nn.Module):
    """A weight used by an operation that has no rule."""

    def __init__(self):
        super().__init__()
        self.cdist, self.head = nn.Parameter(torch.randn(3, 4)), nn.Linear(3, 1)

    def forward(self, x):
        return self.head(torch.cdist(x, self.cdist))


def test_parameters_without_a_rule_go_to_another_engine_alone():
    model = _Odd().double()
    task, engine = _task(model), TapsEngine()
    _compare(engine, task, _data())
    assert list(engine.other()) == ["cdist"]
    shares = engine.shares(task)
    assert shares["taps"] == ["head.weight", "head.bias"]
    assert sorted(name for names in shares.values() for name in names) == sorted(task.params)
    assert "1 parameters, first 'cdist', were measured by another engine than taps: no rule for" in engine.notes()[0]


def test_operations_that_depend_on_the_number_of_rows_are_looked_at_again():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 1)

        def forward(self, x):
            out = self.inner(x)
            return out if len(x) < 4 else out * torch.ones_like(out)

    model = Growing().double()
    task, engine = _task(model), TapsEngine()
    _compare(engine, task, _data(5))
    assert len(engine._plans) == 2


def test_rows_are_taken_again_from_the_front():
    assert cycled((torch.arange(2), ["a"]), 5)[0].tolist() == [0, 1, 0, 1, 0]
