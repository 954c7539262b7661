"""A short plain training run (rho = 0), along which a probe measures."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from gsnr_toolkit.errors import NonFiniteError, ProbeError
from gsnr_toolkit.inputs.batches import batch_length, move_batch
from gsnr_toolkit.inputs.device import find_device
from gsnr_toolkit.inputs.loaders import endless_batches
from gsnr_toolkit.inputs.losses import check_loss_shape, resolve_loss
from gsnr_toolkit.support.progress import stage
from gsnr_toolkit.types import Loader, PerSampleLoss


def measured_steps(steps: int, measurements: int) -> list[int]:
    """Choose the steps to measure at: the first, the last, and between them more of the early ones.

    Args:
        steps: Last step.
        measurements: Number of measurements.

    Returns:
        Increasing steps from 0; fewer than asked for if there are not enough steps.

    Raises:
        ProbeError: If steps is negative or measurements is not positive.

    >>> measured_steps(40, 3), measured_steps(0, 3)
    ([0, 10, 40], [0])
    """
    if steps < 0 or measurements < 1:
        raise ProbeError(
            f"expected steps >= 0 and measurements >= 1, got {steps} and {measurements}; steps=0 measures the model as "
            "it is"
        )
    if measurements == 1:
        return [steps]
    return sorted({round(steps * (i / (measurements - 1)) ** 2) for i in range(measurements)})


class PlainRun:
    """Plain training steps on the trainable parameters of a model, a few at a time.

    Args:
        model: Trained in place, in its present mode (train or eval).
        loader: Yields batches; read again from the start when it ends.
        loss_fn: ``(model, batch) -> (N,)``, or None.
        lr: Learning rate of AdamW without weight decay.
        optimizer: Creates another optimizer from the list of trainable parameters.
        device: Device of the model, to which batches are moved; None leaves batches where they are.

    Raises:
        ProbeError: If nothing is trainable, the learning rate is not positive, or the model is on another device.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        loss_fn: PerSampleLoss | None,
        *,
        lr: float,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.model = model
        self.loss_fn = resolve_loss(loss_fn)
        self.device = None if device is None else find_device(device)
        self.step = 0
        trainable = [param for param in model.parameters() if param.requires_grad]
        if not trainable:
            raise ProbeError(
                "expected at least one trainable parameter, got none; set requires_grad_(True) on what you would train"
            )
        if not 0 < lr < math.inf:
            raise ProbeError(f"expected a positive learning rate, got {lr}; pass lr=1e-3, for example")
        elsewhere = {str(param.device) for param in model.parameters()} - {str(self.device)}
        if self.device is not None and elsewhere:
            raise ProbeError(
                f"expected the model on {self.device}, the device of its batches, got parameters on "
                f"{', '.join(sorted(elsewhere))}; move the model with model.to({str(self.device)!r}) for a training run"
            )
        make = optimizer or (lambda params: torch.optim.AdamW(params, lr=lr, weight_decay=0.0))
        self.optimizer = make(trainable)
        self._batches = endless_batches(loader)

    @torch.enable_grad()
    def advance_to(self, step: int, *, progress: bool = False) -> None:
        """Train up to a step, also inside ``torch.no_grad()``.

        Args:
            step: Step to stop at; nothing happens if it is already reached.
            progress: Show a progress bar.

        Raises:
            NonFiniteError: If the loss is not finite.
        """
        with stage(f"training to step {step}", step - self.step, show=progress) as advance:
            while self.step < step:
                batch = next(self._batches)
                if self.device is not None:
                    batch = move_batch(batch, self.device)
                self.optimizer.zero_grad(set_to_none=True)
                losses = check_loss_shape(self.loss_fn(self.model, batch), batch_length(batch))
                if not torch.isfinite(losses).all():
                    raise NonFiniteError(
                        f"expected a finite training loss, got {losses.mean().item()} at step {self.step}; lower the "
                        "learning rate"
                    )
                losses.mean().backward()
                self.optimizer.step()
                self.step += 1
                advance(1)
        self.optimizer.zero_grad(set_to_none=True)
