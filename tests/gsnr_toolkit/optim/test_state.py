"""A resumed run goes on bit for bit; schedules by their closed forms."""

import io
import math

import pytest
import torch

from gsnr_toolkit import SAM, AutoRho, ProbeError
from gsnr_toolkit.optim import Constant, Cosine, Linear, WarmStart
from tests.support.sam_reference import assert_same_bits, bits, losses, make_batch, make_model


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def run(optimizer, model, steps):
    radii = []
    for step in range(*steps):
        optimizer.step(lambda step=step: losses(model, make_batch(step)).mean().backward())
        radii.append(optimizer.radii)
    return radii


MAKERS = {
    "SGD": lambda m: SAM(m, torch.optim.SGD, lr=0.1, momentum=0.9, rho=0.3, rho_schedule=WarmStart(2, Cosine(6))),
    "AdamW": lambda m: SAM(m, torch.optim.AdamW, lr=0.1, rho=0.3, adaptive=True, rho_schedule=Linear(7)),
    "groups": lambda m: SAM(
        [{"params": m[0].parameters(), "rho": 0.1}, {"params": m[2].parameters(), "lr": 0.5}],
        torch.optim.RMSprop,
        lr=0.01,
        rho=0.3,
    ),
    "controller": lambda m: SAM(m, lr=0.1, rho=AutoRho(m, [], every=3, probe=falling_cor(m))),
}


def falling_cor(model):
    return lambda: 0.01 * float(model[0].weight.detach().norm())


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("stop", [1, 4, 5])
def test_a_resumed_run_goes_on_bit_for_bit(maker, stop):
    whole = make_model()
    optimizer = MAKERS[maker](whole)
    radii = run(optimizer, whole, (0, 8))

    part = make_model()
    first = MAKERS[maker](part)
    run(first, part, (0, stop))
    saved = through_a_file({"model": part.state_dict(), "optimizer": first.state_dict()})

    resumed = make_model()
    torch.nn.init.zeros_(resumed[0].weight)
    second = MAKERS[maker](resumed)
    resumed.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    assert second.base_optimizer.param_groups is second.param_groups
    assert second.base_optimizer.state is second.state
    assert run(second, resumed, (stop, 8)) == radii[stop:]
    assert_same_bits(bits(resumed), bits(whole))
    assert (second.steps, second.skipped, second.unperturbed) == (8, 0, 0)


def test_a_saved_radius_replaces_the_constructors():
    model = make_model()
    state = SAM(model, rho=0.3).state_dict()
    other = SAM(model, rho=0.1)
    other.load_state_dict(state)
    assert other.radii == (0.3,)


def test_sam_starts_from_a_plain_optimizers_checkpoint():
    model = make_model()
    plain = torch.optim.SGD(model.parameters(), lr=0.7, momentum=0.9)
    losses(model, make_batch()).mean().backward()
    plain.step()
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.5, rho=0.2)
    optimizer.load_state_dict(plain.state_dict())
    assert (optimizer.param_groups[0]["lr"], optimizer.radii) == (0.7, (0.2,))
    assert optimizer.state[model[0].weight]["momentum_buffer"] is not None


def test_no_checkpoint_of_perturbed_weights():
    model = make_model()
    optimizer = SAM(model)
    losses(model, make_batch()).mean().backward()
    optimizer.first_step()
    with pytest.raises(ProbeError, match="expected unperturbed weights to save, got an unfinished step"):
        optimizer.state_dict()


def test_schedules_follow_their_formulas():
    steps = range(12)
    assert [Constant(0.5)(s) for s in steps] == [0.5] * 12
    assert [Linear(10, 0.2, 1.0)(s) for s in steps] == pytest.approx([min(0.2 + 0.08 * s, 1.0) for s in steps])
    wave = [1.0 - (0.9 * (1 - math.cos(math.pi * min(s, 10) / 10)) / 2) for s in steps]
    assert [Cosine(10, 1.0, 0.1)(s) for s in steps] == pytest.approx(wave)
    assert [WarmStart(3)(s) for s in steps] == [0] * 3 + [1] * 9


def test_a_schedule_multiplies_each_groups_radius():
    model = make_model()
    groups = [{"params": model[0].parameters(), "rho": 0.2}, {"params": model[2].parameters()}]
    optimizer = SAM(groups, rho=0.4, rho_schedule=Linear(4))
    assert run(optimizer, model, (0, 3)) == [(0.05, 0.1), (0.1, 0.2), pytest.approx((0.15, 0.3))]


def test_a_warm_start_pays_one_backward_per_step():
    model, calls = make_model(), []
    optimizer = SAM(model, lr=0.1, rho_schedule=WarmStart(3))

    def closure():
        calls.append(1)
        losses(model, make_batch()).mean().backward()

    counts = []
    for _ in range(5):
        optimizer.step(closure)
        counts.append(len(calls))
    assert counts == [1, 2, 3, 5, 7]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(-1.0), "expected a factor of rho to be a finite number, 0 or above, got -1.0"),
        (lambda: Linear(0), "expected a whole number of steps, 1 or more, got 0"),
        (lambda: Cosine(3, end=math.inf), "expected a factor of rho"),
        (lambda: WarmStart(-1), "expected a whole number of steps, 0 or more, got -1"),
    ],
)
def test_schedules_check_their_ranges(make, message):
    with pytest.raises(ProbeError, match=message):
        make()
