"""The training loop, and callbacks before and after each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gsnr_toolkit.inputs.batches import batch_length, move_batch
from gsnr_toolkit.inputs.losses import check_loss_shape, resolve_loss
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.types import Batch, PerSampleLoss

__all__ = ["Callback", "StepLog", "train"]


@dataclass(frozen=True)
class StepLog:
    """Record of a training step.

    Attributes:
        step: Step number, from 0.
        loss: Mean loss of the batch at the unperturbed parameters, before the update; nats.
        rho: The largest radius of any parameter group.
        lr: Learning rate.
        grad_norm: Norm of the batch's gradient over the perturbed parameters, at the unperturbed weights; NaN if the
            step had none.
    """

    step: int
    loss: float
    rho: float
    lr: float
    grad_norm: float = math.nan


class Callback:
    """Observes a run; override only the hooks you need."""

    def before_step(self, step: int) -> None:
        """Observe the model after ``step`` updates.

        Args:
            step: Number of updates so far.
        """

    def after_step(self, log: StepLog) -> bool:
        """Observe a step.

        Args:
            log: Record of the step.

        Returns:
            True to end the run after this step.
        """
        del log
        return False


def train(
    model: nn.Module,
    optimizer: SAM,
    batches: Iterator[Batch],
    *,
    steps: int,
    start: int = 0,
    loss_fn: PerSampleLoss | None = None,
    learning_rate: Callable[[int], float] | None = None,
    device: torch.device | None = None,
    callbacks: Sequence[Callback] = (),
) -> int:
    """Train a model.

    Args:
        model: Trained in place, in its current mode.
        optimizer: SAM around any optimizer; with rho 0 its step is that optimizer's.
        batches: Yields batch number ``start`` first.
        steps: Total number of updates, including those before ``start``.
        start: Number of updates already made.
        loss_fn: ``(model, batch) -> (N,)``; None infers a classification loss.
        learning_rate: Function from the step to the learning rate; the optimizer's own rate when None.
        device: Device of the model; batches are not moved when None.
        callbacks: Called before and after each step, in order.

    Returns:
        Total number of updates: fewer than ``steps`` if a callback ended the run, or the loss became non-finite.

    >>> _ = torch.manual_seed(0)
    >>> model, inputs = nn.Linear(2, 1), torch.randn(8, 2)
    >>> batch = (inputs, (inputs[:, 0] > 0).long())
    >>> train(model, SAM(model, lr=0.1, rho=0.01), iter([batch] * 3), steps=3)
    3
    """
    per_sample_loss = resolve_loss(loss_fn)
    for step in range(start, steps):
        for callback in callbacks:
            callback.before_step(step)
        if learning_rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
        batch = next(batches)
        if device is not None:
            batch = move_batch(batch, device)

        def closure(batch: Batch = batch) -> Tensor:
            loss = check_loss_shape(per_sample_loss(model, batch), batch_length(batch)).mean()
            loss.backward()
            return loss.detach()

        loss = float(optimizer.step(closure))
        log = StepLog(step, loss, _radius(optimizer, step), float(optimizer.param_groups[0]["lr"]), optimizer.grad_norm)
        stopped = [callback.after_step(log) for callback in callbacks]
        if any(stopped) or not math.isfinite(loss):
            return step + 1
    return steps


def _radius(optimizer: SAM, step: int) -> float:
    """Radius of a step just made. Not ``optimizer.radii``: those are already the ones of the next step."""
    factor = 1.0 if optimizer.rho_schedule is None else optimizer.rho_schedule(step)
    return max(float(group["rho"]) for group in optimizer.param_groups) * factor
