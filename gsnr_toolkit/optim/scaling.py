"""Gradients under a GradScaler and under several processes: unscaled more than once, and judged by all alike."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer


class Unscaler:
    """Lets a GradScaler unscale the gradients of one optimizer several times between two of its updates.

    A scaler keeps one record per optimizer, and refuses to unscale an optimizer's gradients twice, while SAM has an
    ascent gradient (several with m-sharpness) and a descent gradient in every step. Each ascent therefore stands in
    the scaler's books as an optimizer of its own, which has the parameters and nothing else; the descent stands under
    the optimizer itself. ``scaler.update()`` looks at all records, so that it lowers the scale after an overflow in
    any of them. Only public methods of the scaler are called.
    """

    def __init__(self) -> None:
        self._records: list[_Record] = []
        self._used = 0

    def begin(self) -> None:
        """Start a step."""
        self._used = 0

    def insist_updated(self, scaler: torch.amp.GradScaler) -> None:
        """Let the scaler itself raise, once its scale is known, if it was not updated since the last step."""
        if self._used == 0:
            self.ascent(scaler, [])

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
        """Unscale the descent gradient in place, unless the user has (to clip it)."""
        try:
            scaler.unscale_(optimizer)
        except RuntimeError as error:
            # insist_updated() has made sure that the scaler was updated since the last step: it was done in this one
            if "already been called" not in str(error):
                raise


class _Record:
    """What a GradScaler needs to know of an optimizer."""

    param_groups: list[dict[str, Any]]


def gradients_finite(groups: list[dict[str, Any]]) -> bool:
    """Look for NaN and infinity in every gradient.

    Returns:
        True if there is none, and where there is no gradient.
    """
    grads = [param.grad for group in groups for param in group["params"] if param.grad is not None]
    dense = [grad.coalesce().values() if grad.is_sparse else grad for grad in grads]
    if not dense or bool(torch.isfinite(get_total_norm(dense))):
        return True
    # squares of finite numbers may overflow; the largest number tells, and takes several times as long
    return bool(torch.isfinite(get_total_norm(dense, norm_type=math.inf)))


def all_agree(good: bool, model: DistributedDataParallel | None, device: torch.device) -> bool:
    """Ask every process of a model: they must take the same decision, or one waits for the others forever.

    Args:
        good: What this process found.
        model: Whose processes are asked; nobody is when None.
        device: Where the answer may lie.

    Returns:
        Whether all found it good.
    """
    if model is None:
        return good
    flag = torch.tensor(float(good), device=device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MIN, group=model.process_group)
    return bool(flag)


def spoil(groups: list[dict[str, Any]]) -> None:
    """Make a gradient infinite, for the scaler of this process to see what another process found."""
    grads: list[Tensor] = [param.grad for group in groups for param in group["params"] if param.grad is not None]
    if grads:
        grads[0].fill_(math.inf)
