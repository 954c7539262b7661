"""Gradients under a GradScaler (unscaled several times per step) and under DDP (checked jointly by all processes)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from gsnr_toolkit.errors import ProbeError


class Unscaler:
    """Lets a GradScaler unscale the gradients of one optimizer several times between two of its updates.

    A scaler keeps one record per optimizer and refuses to unscale an optimizer's gradients twice. SAM, however, has an
    ascent gradient (several with m-sharpness) and a descent gradient in every step. Each ascent therefore poses as a
    separate optimizer that has only parameters; the descent uses the optimizer itself. ``scaler.update()`` checks all
    records and lowers the scale after an overflow in any of them. Only public methods of the scaler are called.
    """

    def __init__(self) -> None:
        self._records: list[_Record] = []
        self._abandoned: list[_Record] = []
        self._used = 0
        self._noted: tuple[torch.amp.GradScaler | None, ...] = ()

    def abandon(self) -> None:
        """Let an unfinished step count for nothing, so that the next one needs no ``scaler.update()`` in between."""
        # the scaler knows records by their id, which must not be taken by a new one while it remembers them
        self._abandoned, self._records = [*self._abandoned, *self._records], []
        self.begin()

    def begin(self) -> None:
        """Start a step."""
        self._used, self._noted = 0, ()

    def note(self, scaler: torch.amp.GradScaler | None) -> None:
        """Note the scaler of an ascent; let it raise its own error if it was not updated since the last step."""
        self._noted = (*self._noted, scaler)
        if scaler is not None and self._used == 0:
            self.ascent(scaler, [])

    def insist_same(self, scaler: torch.amp.GradScaler | None) -> None:
        """Check that both halves of a step got the same scaler, or none.

        Raises:
            ProbeError: If they did not: one gradient would be thousands of times as long as the other.
        """
        used = {id(one) if one is not None and one.is_enabled() else None for one in (*self._noted, scaler)}
        if len(used) > 1:
            where = "second_step()" if scaler is None or not scaler.is_enabled() else "first_step() or perturbed()"
            raise ProbeError(
                f"expected the GradScaler in both halves of a step, got none in {where}; pass scaler=scaler to "
                "first_step() (or perturbed()) and to second_step()"
            )

    def ascent(self, scaler: torch.amp.GradScaler, groups: list[dict[str, Any]]) -> None:
        """Unscale an ascent gradient in place."""
        if self._used == len(self._records):
            self._records.append(_Record())
        record: Any = self._records[self._used]
        self._used += 1
        record.param_groups = groups
        scaler.unscale_(record)

    @staticmethod
    def descent(scaler: torch.amp.GradScaler, optimizer: Optimizer) -> None:
        """Unscale the descent gradient in place, unless the user already has (to clip it)."""
        try:
            scaler.unscale_(optimizer)
        except RuntimeError as error:
            # The scaler was updated since the last step (see insist_updated), so the user unscaled in this step.
            if "already been called" not in str(error):
                raise


@contextmanager
def scaler_errors() -> Iterator[None]:
    """Say what to do where a closure unscales the gradients itself, which a scaler allows once per step.

    Raises:
        ProbeError: In place of the scaler's own error.
        RuntimeError: Any other, unchanged.
    """
    try:
        yield
    except RuntimeError as error:
        if "unscale_() has already been called" not in str(error):
            raise
        raise ProbeError(
            "expected a closure that runs forward and backward only, got one that calls scaler.unscale_(); to clip, "
            "use first_step(scaler=scaler), the second backward, scaler.unscale_(optimizer), clip_grad_norm_, and "
            "second_step(scaler=scaler)"
        ) from error


class AskedByScaler:
    """The flag ``_step_supports_amp_scaling``: True if a GradScaler reads it, which then marks the optimizer.

    Others read it too: where it is True, Lightning refuses to clip gradients, also without a scaler.
    """

    def __get__(self, instance: Any, owner: Any = None) -> bool:
        return isinstance(sys._getframe(1).f_locals.get("self"), torch.amp.GradScaler)


def insist_direct(optimizer: Optimizer, closure: Any) -> None:
    """Check that ``step(closure)`` is not called by a GradScaler, which marks the optimizer while it calls.

    Raises:
        ProbeError: If it is. The marks are removed in any case, so that the next step may be right.
    """
    optimizer.__dict__.pop("grad_scale", None)
    if optimizer.__dict__.pop("found_inf", None) is not None:
        given = "optimizer" if closure is None else "optimizer, closure"
        raise ProbeError(
            f"expected a closure and step(closure, scaler=scaler), got scaler.step({given}), which unscales only one "
            "of SAM's two gradients; call optimizer.step(closure, scaler=scaler), then scaler.update()"
        )


class _Record:
    """Stands for an optimizer in a GradScaler's records."""

    param_groups: list[dict[str, Any]]


def gradients_finite(groups: list[dict[str, Any]]) -> bool:
    """Return whether every gradient is finite."""
    grads = [param.grad for group in groups for param in group["params"] if param.grad is not None]
    dense = [grad.coalesce().values() if grad.is_sparse else grad for grad in grads]
    if not dense or bool(torch.isfinite(get_total_norm(dense))):
        return True
    # The squares of finite numbers may overflow. The maximum norm decides; it takes several times as long.
    return bool(torch.isfinite(get_total_norm(dense, norm_type=math.inf)))


def finite_everywhere(groups: list[dict[str, Any]], model: DistributedDataParallel | None) -> bool:
    """Check the gradients of all processes of a model; if they decided differently, one would wait forever.

    Args:
        groups: Parameter groups. If only another process has a gradient that is not finite, one of theirs becomes
            infinite, so that this process's scaler lowers its scale as the other's does.
        model: The DDP model; only this process is checked when None.

    Returns:
        True if all gradients are finite.
    """
    finite = gradients_finite(groups)
    if model is None:
        return finite
    flag = torch.tensor(float(finite), device=groups[0]["params"][0].device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MIN, group=model.process_group)
    grads: list[Tensor] = [param.grad for group in groups for param in group["params"] if param.grad is not None]
    if finite and not flag and grads:
        grads[0].fill_(math.inf)
    return bool(flag)
