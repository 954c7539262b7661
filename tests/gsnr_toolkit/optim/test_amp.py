"""SAM under a GradScaler: the true rho, overflows in either pass, clipping, and several ascents."""

import warnings

import pytest
import torch

from gsnr_toolkit import SAM
from gsnr_toolkit.optim import WarmStart, sam_step
from tests.support.sam_reference import assert_same_bits, bits, losses, make_batch, make_model

SCALE = 2.0**10


def float_model():
    return make_model().float()


def float_batch(seed=0):
    inputs, labels = make_batch(seed)
    return inputs.float(), labels


def make_scaler(*, enabled=True, scale=SCALE):
    return torch.amp.GradScaler("cpu", enabled=enabled, init_scale=scale, growth_interval=1000)


def step(interface, optimizer, backward, scaler):
    """One SAM step with ``backward(scaler)``, by one of the ways that docs/sam.md shows."""
    if interface == "closure":
        optimizer.step(lambda: backward(scaler), scaler=scaler)
    elif interface == "two steps":
        optimizer.zero_grad()
        backward(scaler)
        if optimizer.first_step(scaler=scaler):
            backward(scaler)
        optimizer.second_step(scaler=scaler)
    else:
        optimizer.zero_grad()
        backward(scaler)
        with optimizer.perturbed(scaler=scaler):
            backward(scaler)
        optimizer.second_step(scaler=scaler)
    if scaler is not None:
        scaler.update()


@pytest.mark.parametrize("interface", ["closure", "two steps", "context"])
@pytest.mark.parametrize("plain_steps", [0, 2])
def test_scaling_by_a_power_of_two_changes_nothing(interface, plain_steps):
    finals = []
    for scaler in (None, make_scaler(), make_scaler(enabled=False)):
        model = float_model()
        optimizer = SAM(model, lr=0.3, rho=0.5, momentum=0.9, rho_schedule=WarmStart(plain_steps))
        for number in range(4):

            def backward(scaler, model=model, number=number):
                loss = losses(model, float_batch(number)).mean()
                (loss if scaler is None else scaler.scale(loss)).backward()

            step(interface, optimizer, backward, scaler)
        finals.append(bits(model))
    assert_same_bits(finals[1], finals[0])
    assert_same_bits(finals[2], finals[0])


@pytest.mark.parametrize("interface", ["closure", "two steps", "context"])
@pytest.mark.parametrize("bad_pass", [0, 1])
def test_an_overflow_in_either_pass_skips_the_step_and_lowers_the_scale(interface, bad_pass):
    model, scaler, calls = float_model(), make_scaler(), []
    optimizer, before = SAM(model, torch.optim.AdamW, lr=0.1), bits(model)

    def backward(scaler):
        loss = scaler.scale(losses(model, float_batch()).mean())
        (loss * (1e38 if len(calls) == bad_pass else 1) * (1e38 if len(calls) == bad_pass else 1)).backward()
        calls.append(1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # overflows are a scaler's daily work
        step(interface, optimizer, backward, scaler)
    assert optimizer.skipped == 1
    assert not optimizer.state
    assert scaler.get_scale() == SCALE / 2
    assert_same_bits(bits(model), before)
    calls.extend([1, 1])
    step(interface, optimizer, backward, scaler)  # and training goes on
    assert scaler.get_scale() == SCALE / 2
    assert optimizer.state
    assert all((a != b).any() for a, b in zip(bits(model), before, strict=True))


def test_an_overflow_by_too_large_a_scale():
    model, scaler = float_model(), make_scaler(scale=2.0**127)
    optimizer = SAM(model, lr=0.1)

    def backward(scaler):
        scaler.scale(1000 * losses(model, float_batch()).mean()).backward()

    skipped = []
    for _ in range(20):
        step("closure", optimizer, backward, scaler)
        skipped.append(optimizer.skipped)
    assert skipped[0] == 1
    assert skipped[-1] == skipped[-2] < 20
    assert torch.isfinite(model[0].weight).all()


def test_an_overflow_in_a_parameter_that_is_not_perturbed_skips_the_step():
    model, scaler = float_model(), make_scaler()
    optimizer, before = SAM(model, perturb=lambda name, _: name.startswith("0.")), bits(model)

    def backward(scaler):
        scaler.scale(losses(model, float_batch()).mean()).backward()
        model[2].weight.grad.fill_(torch.inf)

    step("closure", optimizer, backward, scaler)
    assert (optimizer.skipped, scaler.get_scale()) == (1, SCALE / 2)
    assert_same_bits(bits(model), before)


def test_a_zero_ascent_gradient_leaves_the_others_scaled_right():
    finals = []
    for scaler in (None, make_scaler()):
        model = float_model()
        optimizer = SAM(model, lr=0.3, perturb=lambda name, _: name.startswith("0."))

        def backward(scaler, model=model):
            logits = model[2](model[1](model[0](float_batch()[0])).detach() + 0 * model[0].weight.sum())
            (logits.mean() if scaler is None else scaler.scale(logits.mean())).backward()

        with pytest.warns(UserWarning, match="has norm 0"):
            step("two steps", optimizer, backward, scaler)
        finals.append(bits(model))
    assert_same_bits(finals[1], finals[0])


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("plain_steps", [0, 2])
@pytest.mark.parametrize("ask", [True, False])
def test_clipping_the_descent_gradient(enabled, plain_steps, ask):
    finals = []
    for scaler in (make_scaler(enabled=enabled), None):
        model = float_model()
        optimizer = SAM(model, lr=1.0, rho=0.5, rho_schedule=WarmStart(plain_steps))
        for number in range(3):

            def backward(scaler, model=model, number=number):
                loss = losses(model, float_batch(number)).mean()
                (loss if scaler is None else scaler.scale(loss)).backward()

            before = model[2].weight.detach().clone()
            optimizer.zero_grad()
            backward(scaler)
            if optimizer.first_step(scaler=scaler) or not ask:
                backward(scaler)
            if scaler is not None:
                scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            assert 0.01 < norm < 10
            optimizer.second_step(scaler=scaler)
            if scaler is not None:
                scaler.update()
            assert 0 < (model[2].weight - before).norm() < 0.0101
        finals.append(bits(model))
    assert_same_bits(finals[1], finals[0])


@pytest.mark.parametrize("plain_steps", [0, 5])
def test_a_forgotten_update_is_an_error(plain_steps):
    model, scaler = float_model(), make_scaler()
    optimizer = SAM(model, rho_schedule=WarmStart(plain_steps))

    def closure():
        scaler.scale(losses(model, float_batch()).mean()).backward()

    optimizer.step(closure, scaler=scaler)
    with pytest.raises(RuntimeError, match=r"since the last update\(\)"):
        optimizer.step(closure, scaler=scaler)
    scaler.update()
    optimizer.step(closure, scaler=scaler)
    assert optimizer.steps == 2


@pytest.mark.parametrize("sharpness", ["batch", "micro"])
def test_micro_batches_under_a_scaler(sharpness):
    finals = []
    for scaler in (None, make_scaler()):
        model = float_model()
        optimizer = SAM(model, lr=0.3, rho=0.5)
        for number in range(3):
            sam_step(model, float_batch(number), losses, optimizer, 4, sharpness=sharpness, scaler=scaler)
            if scaler is not None:
                scaler.update()
        finals.append(bits(model))
    assert_same_bits(finals[1], finals[0])


@pytest.mark.parametrize("sharpness", ["batch", "micro"])
@pytest.mark.parametrize("bad_call", range(6))
def test_an_overflow_in_any_micro_batch_skips_the_step(sharpness, bad_call):
    model, scaler, calls = float_model(), make_scaler(), []

    def overflowing(model, batch):
        calls.append(1)
        return losses(model, batch) * (1e38 if len(calls) - 1 == bad_call else 1)

    optimizer, before = SAM(model, lr=0.3), bits(model)
    sam_step(model, float_batch(), overflowing, optimizer, 4, sharpness=sharpness, scaler=scaler)
    scaler.update()
    assert (optimizer.skipped, scaler.get_scale()) == (1, SCALE / 2)
    assert_same_bits(bits(model), before)
