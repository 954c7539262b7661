"""What SAM says of gradients that it meets: standing ones, reused ones, scaled ones."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit import SAM, ProbeError
from gsnr_toolkit.errors import ProbeWarning
from gsnr_toolkit.optim import sam_step
from tests.support.sam_reference import (
    EXACT,
    bits,
    closure_of,
    literal_gradient,
    literal_sgd,
    losses,
    make_batch,
    make_model,
)

BASES = [
    (torch.optim.SGD, {"lr": 0.1}),
    (torch.optim.AdamW, {"lr": 0.01}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
]


def parts_of(batch, count):
    return list(zip(*(tensor.chunk(count) for tensor in batch), strict=True))


# ---- gradients that stand when step(closure) begins --------------------------------------------------------------


def accumulate(optimizer, model, parts):
    """What a trainer does: backwards of the earlier micro-batches, then step(closure) with the last one."""
    for part in parts[:-1]:
        (losses(model, part).mean() / len(parts)).backward()
    optimizer.step(lambda: (losses(model, parts[-1]).mean() / len(parts)).backward())


def test_standing_gradients_are_told_once_and_dropped():
    model = make_model()
    optimizer = SAM(model, rho=0.1, lr=0.1)
    accumulate(optimizer, model, parts_of(make_batch(0), 3))
    with pytest.warns(ProbeWarning, match=r"no gradients when step\(closure\) begins.*inside the closure"):
        accumulate(optimizer, model, parts_of(make_batch(0), 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        accumulate(optimizer, model, parts_of(make_batch(1), 3))


def test_the_remedy_is_the_whole_batch():
    model, twin = make_model(), make_model()
    optimizer = SAM(model, rho=0.1, lr=0.1)
    parts = parts_of(make_batch(), 3)
    optimizer.step(lambda: [(losses(model, part).mean() / 3).backward() for part in parts])
    literal_sgd(twin, literal_gradient(twin, make_batch(), 0.1), 0.1)
    torch.testing.assert_close(bits(model), bits(twin), **EXACT)


def test_nothing_is_known_of_gradients_after_loading_a_state():
    model = make_model()
    optimizer = SAM(model, rho=0.1, lr=0.1)
    optimizer.step(closure_of(optimizer, model, make_batch()))
    losses(model, make_batch()).mean().backward()
    optimizer.load_state_dict(optimizer.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(lambda: losses(model, make_batch()).mean().backward())


@pytest.mark.parametrize("touch", ["a new backward", "a weight in place", "a sparse one"])
def test_other_standing_gradients(touch):
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 1)) if touch == "a sparse one" else make_model()
    optimizer = SAM(model, rho=0.1, lr=0.1)
    rows = torch.arange(5) if touch == "a sparse one" else make_batch()[0]

    def closure():
        model(rows).square().mean().backward()

    optimizer.step(closure)
    if touch == "a weight in place":
        next(model.parameters()).grad.add_(1.0)
    else:
        closure()
    with pytest.warns(ProbeWarning, match="no gradients when step"):
        optimizer.step(closure)


@pytest.mark.parametrize(("base", "options"), BASES)
@pytest.mark.parametrize(
    "habit", ["none", "zero_grad before", "to zeros after", "clip", "two steps", "sam_step", "restore"]
)
def test_ordinary_loops_are_not_warned(base, options, habit):
    model, batch = make_model(), make_batch()
    optimizer = SAM(model, base, rho=0.1, **options)

    def closure():
        losses(model, batch).mean().backward()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            if habit == "zero_grad before":
                optimizer.zero_grad()
            if habit == "two steps":
                optimizer.zero_grad()
                closure()
                optimizer.first_step()
                closure()
                optimizer.second_step()
                continue
            if habit == "sam_step":
                sam_step(model, batch, losses, optimizer, micro_batch_size=4, sharpness="micro")
                continue
            optimizer.step(closure)
            if habit == "to zeros after":
                optimizer.zero_grad(set_to_none=False)
            if habit == "clip":
                optimizer.zero_grad()
                closure()
                optimizer.first_step()
                closure()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.second_step()
            if habit == "restore":
                optimizer.zero_grad()
                closure()
                optimizer.first_step()
                optimizer.restore()
                optimizer.zero_grad()


# ---- a second backward through the first graph -------------------------------------------------------------------


def head_alone(seed=1):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize("protocol", ["closure", "two steps", "context"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_reused_graph_is_told(protocol, adaptive):
    model, labels = head_alone(), make_batch()[1]
    optimizer, logits = SAM(model, lr=0.1, rho=1.0, adaptive=adaptive), model(make_batch()[0].float())

    def back():
        F.cross_entropy(logits, labels).backward(retain_graph=True)

    def step():
        if protocol == "closure":
            optimizer.step(back)
            return
        back()
        if protocol == "two steps":
            optimizer.first_step()
            back()
        else:
            with optimizer.perturbed():
                back()
        optimizer.second_step()

    with pytest.warns(ProbeWarning, match="got the first gradient again, bit for bit"):
        step()


@pytest.mark.parametrize("protocol", ["closure", "two steps", "context", "sam_step"])
def test_warnings_point_at_the_users_line(protocol):
    model, batch = make_model(), make_batch()
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer = SAM(model, rho=0.1, lr=0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if protocol == "closure":
            optimizer.step(lambda: (0.0 * losses(model, batch).mean()).backward())
        elif protocol == "sam_step":
            sam_step(model, batch, lambda model, batch: 0.0 * losses(model, batch), optimizer)
        elif protocol == "two steps":
            optimizer.first_step()
        else:
            with optimizer.perturbed():
                pass
    assert [warning.filename for warning in caught] == [__file__]


def test_precomputed_losses_of_a_bias_alone_are_told():
    model = nn.Linear(4, 2)
    model.weight.requires_grad_(False)
    optimizer, logits = SAM(model, lr=0.1, rho=1.0), model(make_batch()[0].float())
    with pytest.warns(ProbeWarning, match="run the model again"):
        optimizer.step(lambda: F.cross_entropy(logits, make_batch()[1]).backward(retain_graph=True))


def test_a_head_alone_that_is_run_again_is_not_warned():
    model, (inputs, labels) = head_alone(), make_batch()
    features = model[:2](inputs.float()).detach()  # features may be kept: nothing before the head is trained
    optimizer = SAM(model[2], lr=0.1, rho=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            optimizer.step(lambda: F.cross_entropy(model[2](features), labels).backward())


def test_a_graph_reused_after_good_steps_is_told_soon():
    model, (inputs, labels) = head_alone(), make_batch()
    optimizer = SAM(model, lr=0.1, rho=1.0)
    optimizer.step(lambda: F.cross_entropy(model(inputs.float()), labels).backward())
    logits = model(inputs.float())

    def go_on():
        for _ in range(64):
            optimizer.step(lambda: F.cross_entropy(logits, labels).backward(retain_graph=True))

    with pytest.warns(ProbeWarning, match="got the first gradient again, bit for bit"):
        go_on()


def test_a_second_scale_after_good_steps_is_told_soon():
    model, batch = make_model(), make_batch()
    optimizer = SAM(model, rho=0.1, lr=0.0)

    def steps(count, scale):
        for _ in range(count):
            optimizer.zero_grad()
            losses(model, batch).mean().backward()
            optimizer.first_step()
            (scale * losses(model, batch).mean()).backward()
            optimizer.second_step()

    steps(1, scale=1.0)
    with pytest.warns(ProbeWarning, match="in one scale, got a second one"):
        steps(64, scale=65536.0)


def test_a_reused_graph_that_no_longer_reaches_every_parameter_is_told():
    model, (inputs, labels) = head_alone(), make_batch()
    extra = nn.Parameter(torch.zeros(2))
    optimizer, logits = SAM([*model[2].parameters(), extra], lr=0.1, rho=1.0), model(inputs.float())
    F.cross_entropy(logits + extra, labels).backward(retain_graph=True)
    optimizer.first_step()
    F.cross_entropy(logits, labels).backward()
    with pytest.warns(ProbeWarning, match="got the first gradient again, bit for bit"):
        optimizer.second_step()


# ---- a GradScaler in one half of a step --------------------------------------------------------------------------


@pytest.fixture
def scaled():
    model, scaler = make_model().float(), torch.amp.GradScaler("cpu")
    optimizer = SAM(model, rho=0.1, lr=0.1)
    inputs, labels = make_batch()

    def back():
        scaler.scale(losses(model, (inputs.float(), labels)).float().mean()).backward()

    return model, optimizer, scaler, back


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
def test_a_scaler_in_one_half_is_an_error_and_the_weights_are_back(scaled, first, second):
    model, optimizer, scaler, back = scaled
    before = bits(model)
    back()
    optimizer.first_step(scaler=scaler if first else None)
    back()
    with pytest.raises(ProbeError, match="GradScaler in both halves of a step"):
        optimizer.second_step(scaler=scaler if second else None)
    torch.testing.assert_close(bits(model), before, rtol=0, atol=0)
    optimizer.zero_grad()
    back()
    optimizer.first_step()  # the step was abandoned: a new one may begin


def test_a_scaler_in_one_of_several_ascents_is_an_error(scaled):
    _, optimizer, scaler, back = scaled
    for given in (scaler, None):
        back()
        with optimizer.perturbed(scaler=given):
            back()
    with pytest.raises(ProbeError, match="both halves"):
        optimizer.second_step(scaler=scaler)


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_an_abandoned_step_needs_no_update_of_the_scaler(scaled, rho):
    model, optimizer, scaler, back = scaled
    optimizer.param_groups[0]["rho"] = rho
    before = bits(model)
    for _ in range(3):
        back()
        optimizer.first_step(scaler=scaler)
        optimizer.restore()
        optimizer.zero_grad()
    assert bits(model)[0].equal(before[0])
    back()
    if optimizer.first_step(scaler=scaler):
        back()
    optimizer.second_step(scaler=scaler)
    scaler.update()
    assert not bits(model)[0].equal(before[0])
    assert (optimizer.steps, optimizer.skipped, scaler.get_scale()) == (1, 0, 65536.0)


def test_a_disabled_scaler_counts_as_none(scaled):
    model, optimizer, _, _ = scaled
    optimizer.zero_grad()
    inputs, labels = make_batch()
    losses(model, (inputs.float(), labels)).float().mean().backward()
    optimizer.first_step(scaler=torch.amp.GradScaler("cpu", enabled=False))
    losses(model, (inputs.float(), labels)).float().mean().backward()
    optimizer.second_step()
    assert optimizer.steps == 1


def test_unscaled_first_and_scaled_second_gradients_are_told(scaled):
    _, optimizer, scaler, back = scaled
    back()
    scaler.unscale_(optimizer)
    optimizer.first_step()
    back()
    with pytest.warns(ProbeWarning, match=r"one scale, got a second one [67]\.\d+e\+04 times as long"):
        optimizer.second_step()


def test_the_scalers_own_step_is_refused(scaled):
    model, optimizer, scaler, back = scaled
    before = bits(model)
    scaler.scale(torch.ones(()))
    with pytest.raises(ProbeError, match=r"step\(closure, scaler=scaler\), got scaler\.step\(optimizer, closure\)"):
        scaler.step(optimizer, back)
    with pytest.raises(ProbeError, match="expected a closure"):
        torch.amp.GradScaler("cpu", enabled=False).step(optimizer)
    torch.testing.assert_close(bits(model), before, rtol=0, atol=0)
    torch.amp.GradScaler("cpu", enabled=False).step(optimizer, lambda: None)  # a disabled scaler passes the call on


def test_a_closure_that_unscales_is_told_how_to_clip(scaled):
    model, optimizer, scaler, back = scaled
    before = bits(model)
    with pytest.raises(ProbeError, match=r"forward and backward only.*second_step\(scaler=scaler\)"):
        optimizer.step(lambda: (back(), scaler.unscale_(optimizer)), scaler=scaler)
    torch.testing.assert_close(bits(model), before, rtol=0, atol=0)
    scaler.update()

    def other():
        raise RuntimeError("the closure's own")

    with pytest.raises(RuntimeError, match="the closure's own"):
        optimizer.step(other, scaler=scaler)


# ---- hooks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["closure", "two steps", "sam_step"])
def test_hooks_of_a_step_run_once_a_step(protocol):
    model, batch = make_model(), make_batch()
    optimizer, seen = SAM(model, rho=0.1, lr=0.1), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    for _ in range(2):
        if protocol == "closure":
            optimizer.step(closure_of(optimizer, model, batch))
        elif protocol == "sam_step":
            sam_step(model, batch, losses, optimizer, micro_batch_size=4)
        else:
            closure_of(optimizer, model, batch)()
            optimizer.first_step()
            closure_of(optimizer, model, batch)()
            optimizer.second_step()
    assert seen == ["before", "after"] * 2
