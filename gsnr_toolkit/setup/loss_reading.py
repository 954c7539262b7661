"""The loss that is measured, in words: for the settings and the notes of a report."""

from __future__ import annotations

from torch import Tensor

from gsnr_toolkit.inputs.loss_forms import loss_name
from gsnr_toolkit.inputs.losses import inferred_loss
from gsnr_toolkit.types import PerSampleLoss


class LossReading:
    """Names the caller's loss, or the one that outputs and labels imply.

    Args:
        loss_fn: The loss that is measured.

    Attributes:
        name: Its name.
        notes: What a reader must know about it.
        draws: Whether the model or the loss drew random numbers; known once the first batch has been checked.

    >>> import torch
    >>> reading = LossReading(inferred_loss)
    >>> reading.see(1, torch.tensor([0.2, 0.7]))  # outputs per sample, and targets
    >>> reading.name
    'binary cross-entropy of one output, inferred'
    """

    def __init__(self, loss_fn: PerSampleLoss) -> None:
        self.inferred = loss_fn is inferred_loss
        self.name = "cross-entropy, inferred" if self.inferred else loss_name(loss_fn)
        self.notes: tuple[str, ...] = ()
        self.draws = False

    def see(self, outputs: int | None, labels: Tensor) -> None:
        """Read the loss from a batch; only an inferred loss depends on it.

        Args:
            outputs: Outputs per sample, if known.
            labels: The labels of a batch.
        """
        if not self.inferred or outputs is None:
            return
        kind = "binary cross-entropy of one output" if outputs == 1 else f"cross-entropy of {outputs} classes"
        self.name = f"{kind}, inferred"
        if outputs == 1 and labels.is_floating_point() and bool(((labels > 0) & (labels < 1)).any()):
            self.notes = (
                "loss: targets between 0 and 1 are read as probabilities of a class, by binary cross-entropy; if they "
                "are scores to be regressed, pass the loss of your training as loss_fn(model, batch)",
            )
