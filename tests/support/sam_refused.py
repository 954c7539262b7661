"""Acts that SAM must refuse in the middle of a program, without a trace on weights and buffers."""

import pytest
import torch
from torch.nn import functional as F

from gsnr_toolkit import ProbeError


class StopHere(Exception):
    """What a user's closure raises."""


def _second_alone(run, back):
    run.optimizer.second_step()


def _no_closure(run, back):
    back()
    run.optimizer.step()


def _first_twice(run, back):
    back()
    run.optimizer.first_step(scaler=run.scaler)
    run.optimizer.first_step(scaler=run.scaler)


def _step_in_a_step(run, back):
    back()
    run.optimizer.first_step(scaler=run.scaler)
    run.optimizer.step(back, scaler=run.scaler)


def _nested(run, back):
    back()
    with run.optimizer.perturbed(scaler=run.scaler):
        back()
        with run.optimizer.perturbed(scaler=run.scaler):
            raise AssertionError


def _save_inside(run, back):
    back()
    with run.optimizer.perturbed(scaler=run.scaler):
        run.optimizer.state_dict()


def _raising(run, back):
    passes = iter((True, False))

    def closure():
        back()
        if not next(passes):
            raise StopHere

    run.optimizer.step(closure, scaler=run.scaler)


def _scaler_in_one_half(run, back):
    back()
    run.optimizer.first_step(scaler=run.scaler)
    run.optimizer.second_step()


def _unscaled_in_the_closure(run, back):
    def closure():
        back()
        run.scaler.unscale_(run.optimizer)

    run.optimizer.step(closure, scaler=run.scaler)


ALWAYS = {
    "second step alone": _second_alone,
    "no closure": _no_closure,
    "first step twice": _first_twice,
    "a step in a step": _step_in_a_step,
}
DISPLACED = {"perturbed in perturbed": _nested, "saved while perturbed": _save_inside, "a closure raises": _raising}
SCALED = {"scaler in one half": _scaler_in_one_half, "unscaled in the closure": _unscaled_in_the_closure}
WRONG = {**ALWAYS, **DISPLACED, **SCALED}


def refuse(run, name, batch):
    """Do a wrong thing; check that it is refused and leaves no trace; clear up as a user would."""
    if (name in SCALED and not run.scaler) or (name not in ALWAYS and not any(run.optimizer.radii)):
        return  # not wrong there
    buffers = [(buffer, buffer.clone()) for buffer in run.model.buffers()]
    before = [param.detach().clone() for param in run.model.parameters()]

    def back():
        loss = F.cross_entropy(run.net(batch[0]).to(run.program.dtype), batch[1])
        (run.scaler.scale(loss) if run.scaler else loss).backward()

    run.optimizer.zero_grad()
    with pytest.raises(StopHere if name == "a closure raises" else ProbeError):
        WRONG[name](run, back)
    run.optimizer.restore()
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    run.optimizer.zero_grad()
    if run.scaler:
        try:
            run.scaler.update()
        except AssertionError:  # nothing was unscaled: torch's scaler then cannot be updated
            run.scaler = torch.amp.GradScaler("cpu", init_scale=run.scaler.get_scale())
    for buffer, value in buffers:
        buffer.copy_(value)
