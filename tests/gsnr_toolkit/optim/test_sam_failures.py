"""Steps that SAM cannot take as asked: skipped and said once, or refused, with the weights as they were."""

import math
import re

import pytest
import torch
from torch import nn

from gsnr_toolkit import SAM, ProbeError, ProbeWarning
from gsnr_toolkit.optim import WarmStart
from tests.support.sam_reference import assert_same_bits, bits, losses, make_batch, make_model


class Failure(Exception):
    pass


@pytest.mark.parametrize("interface", ["closure", "context", "two steps"])
def test_weights_come_back_bit_for_bit_when_the_second_forward_raises(interface):
    model = make_model().float()
    optimizer, before, calls = SAM(model, rho=1e3), bits(model), []

    def closure():
        calls.append(bits(model))
        if len(calls) == 2:
            raise Failure
        losses(model, (make_batch()[0].float(), make_batch()[1])).mean().backward()

    if interface == "closure":
        with pytest.raises(Failure):
            optimizer.step(closure)
    elif interface == "context":
        closure()
        with pytest.raises(Failure), optimizer.perturbed():
            closure()
    else:
        closure()
        optimizer.first_step()
        with pytest.raises(Failure):
            closure()
        with pytest.raises(ProbeError, match=re.escape("restore() to abandon a step")):
            optimizer.first_step()
        optimizer.restore()
    assert (calls[1][0] - before[0]).abs().max() > 1  # it was away
    assert_same_bits(bits(model), before)
    optimizer.step(lambda: losses(model, (make_batch()[0].float(), make_batch()[1])).mean().backward())
    assert optimizer.steps == 1


def test_weights_come_back_bit_for_bit_where_subtracting_would_not():
    model = make_model().float()
    before = bits(model)
    optimizer = SAM(model, rho=1e6, lr=0.0)
    optimizer.step(lambda: losses(model, (make_batch()[0].float(), make_batch()[1])).mean().backward())
    assert_same_bits(bits(model), before)
    naive = before[0] + torch.full_like(before[0], 1e6) - 1e6
    assert (naive != before[0]).any()  # negative control


def test_a_zero_gradient_moves_nothing_and_is_said_once(model):
    optimizer, before = SAM(model, lr=0.1), bits(model)
    seen = []

    def closure():
        seen.append(bits(model))
        (0 * losses(model, make_batch()).mean()).backward()

    with pytest.warns(ProbeWarning, match=r"ascent gradient of step 0 has norm 0 and no direction") as caught:  # noqa: PT031
        optimizer.step(closure)
        optimizer.step(closure)
    assert len(caught) == 1
    assert (optimizer.unperturbed, optimizer.skipped, len(seen)) == (2, 0, 2)
    assert_same_bits(bits(model), before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("pass_", [0, 1])
def test_a_gradient_that_is_not_finite_skips_the_step_and_is_said_once(bad, pass_):
    model = make_model()
    optimizer, before, calls = SAM(model, torch.optim.AdamW, lr=0.1), bits(model), []

    def closure():
        loss = losses(model, make_batch()).mean()
        (loss * (bad if len(calls) % 2 == pass_ else 1)).backward()
        calls.append(1)

    with pytest.warns(ProbeWarning, match=r"gradient of step 0 is not finite") as caught:  # noqa: PT031
        optimizer.step(closure)
        calls.clear()
        optimizer.step(closure)
    assert len(caught) == 1
    assert (optimizer.skipped, optimizer.unperturbed, optimizer.steps) == (2, 0, 2)
    assert len(calls) == 1 + pass_  # no second backward after a bad first one
    assert_same_bits(bits(model), before)
    assert not optimizer.state  # AdamW has not stepped


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_gradients_whose_squares_leave_float32_are_still_gradients(size):
    model = nn.Linear(3, 1)
    optimizer, before = SAM(model, lr=0.0, rho=0.5), bits(model)
    (model(torch.ones(1, 3)).sum() * size).backward()
    assert optimizer.first_step()
    moved = [a - b for a, b in zip(bits(model), before, strict=True)]
    assert math.hypot(*(float(part.norm()) for part in moved)) == pytest.approx(0.5, rel=1e-6)
    (model(torch.ones(1, 3)).sum() * size).backward()
    optimizer.second_step()
    assert (optimizer.skipped, optimizer.unperturbed) == (0, 0)


def test_a_skipped_ascent_stays_skipped_when_the_user_goes_on(model, batch):
    optimizer, before = SAM(model, lr=0.1), bits(model)
    (losses(model, batch).mean() * math.nan).backward()
    assert not optimizer.first_step()
    losses(model, batch).mean().backward()
    with pytest.warns(ProbeWarning):
        optimizer.second_step()
    assert_same_bits(bits(model), before)


@pytest.mark.parametrize("second_backward", [False, True])
def test_plain_steps_need_no_second_backward_and_bear_one(second_backward):
    ours, theirs = make_model(), make_model()
    optimizer = SAM(ours, lr=0.3, rho_schedule=WarmStart(2))
    for step in range(2):
        losses(ours, make_batch(step)).mean().backward()
        assert not optimizer.first_step()
        if second_backward:
            losses(ours, make_batch(step)).mean().backward()
        optimizer.second_step()
        optimizer.zero_grad()
    plain = torch.optim.SGD(theirs.parameters(), lr=0.3)
    for step in range(2):
        plain.zero_grad()
        losses(theirs, make_batch(step)).mean().backward()
        plain.step()
    assert_same_bits(bits(ours), bits(theirs))
    losses(ours, make_batch(2)).mean().backward()
    assert optimizer.first_step()
    optimizer.restore()


def test_half_precision_is_warned_of():
    with pytest.warns(ProbeWarning, match=r"expected perturbed parameters in float32, got half precision"):
        SAM(nn.Linear(2, 1).bfloat16())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: SAM([]), "expected at least one parameter to train, got none"),
        (lambda m: SAM(m, rho=-0.1), "expected rho to be a finite number, 0 or above, got -0.1"),
        (lambda m: SAM(m, rho="cor"), "got 'cor'; pass rho='auto', or rho=gsnr_toolkit.AutoRho"),
        (lambda m: SAM(m, rho=0.1, rho_max=0.2), "expected rho='auto' with rho_max, got rho=0.1"),
        (
            lambda m: SAM(m, rho="auto", plateau_loss=-1),
            "expected plateau_loss to be a positive number or None, got -1",
        ),
        (lambda m: SAM(m, adaptive_eta=math.nan), "expected adaptive_eta to be a finite number, 0 or above, got nan"),
        (lambda m: SAM([{"params": m.parameters(), "rho": math.inf}]), "expected a group's rho to be a finite number"),
        (lambda m: SAM(m, perturb="some"), "expected perturb to be 'all', 'norms' or a function"),
        (lambda m: SAM(m.parameters(), perturb="norms"), "expected the model with perturb='norms'"),
        (lambda m: SAM(m, perturb="norms"), "to select at least one of 4 parameters, got none"),
        (lambda m: SAM(m.parameters(), perturb=lambda n, p: True), "got 4 without"),
        (lambda m: SAM(m, torch.optim.SGD(m.parameters())), "got an instance of SGD"),
        (lambda m: SAM(None), "expected a module, parameters, .* got NoneType; pass the model"),
        (lambda m: SAM(0.1), "got float"),
        (lambda m: SAM({"params": list(m.parameters())}), "got dict"),
        (lambda m: SAM(m, "sgd"), r"builds one, got 'sgd'; pass a class such as"),
        (lambda m: SAM(m, lambda groups: None), "is a torch.optim.Optimizer, got NoneType"),
        (lambda m: SAM(m, torch.optim.LBFGS), "got LBFGS, which evaluates the loss itself"),
        (lambda m: SAM(m).step(), "expected a closure .* got none"),
        (lambda m: SAM(m).second_step(), "expected first_step"),
        (lambda m: SAM(m, rho_schedule=lambda step: -1.0).step(lambda: None), r"expected rho_schedule\(0\) to be"),
    ],
)
def test_errors_say_what_to_do(model, make, message):
    with pytest.raises(ProbeError, match=message):
        make(model)


def test_contexts_do_not_nest(model, batch):
    optimizer, before = SAM(model), bits(model)
    losses(model, batch).mean().backward()
    with (
        pytest.raises(ProbeError, match=r"perturbed\(\) inside perturbed\(\)"),
        optimizer.perturbed(),
        optimizer.perturbed(),
    ):
        pass
    assert_same_bits(bits(model), before)
