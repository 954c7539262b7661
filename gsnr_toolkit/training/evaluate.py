"""Scores of a detector on a data set, with AUC and loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.estimators.auc import Auc, auc
from gsnr_toolkit.inputs.batches import move_batch
from gsnr_toolkit.inputs.loader_state import check_shareable, undisturbed
from gsnr_toolkit.inputs.losses import binary_labels, classification_loss, model_logits
from gsnr_toolkit.inputs.modes import in_eval_mode
from gsnr_toolkit.types import Loader


@dataclass(frozen=True)
class Evaluation:
    """Performance of a detector on a data set.

    Attributes:
        auc: Area under the ROC curve with its 95 % interval over images; NaN if a score is not finite.
        loss: Mean cross-entropy in nats.
        logit_std: Standard deviation of the scores; near 0, the detector's output is a constant.
        scores: One per image, larger for fake.
        labels: 0 real, 1 fake.
    """

    auc: Auc
    loss: float
    logit_std: float
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]


@torch.no_grad()
def evaluate(model: nn.Module, loader: Loader, device: torch.device | str | None = None) -> Evaluation:
    """Score every image of a loader in eval mode.

    Args:
        model: Returns one logit per image, or two (real, fake), whose difference is the score.
        loader: Yields ``(images, labels)`` with labels 0 and 1.
        device: Device of the model; batches are not moved when None.

    Returns:
        AUC, loss and scores. The interval assumes independent images: use one image per video or identity.

    Raises:
        ProbeError: If a class is missing, or the model has more than two outputs.

    >>> model = nn.Linear(1, 1)
    >>> _ = model.requires_grad_(False).weight.fill_(1.0)
    >>> evaluate(model, [(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1]))]).auc.value
    1.0
    """
    scores, labels, losses = [], [], []
    check_shareable(loader)
    with in_eval_mode(model), undisturbed(loader):
        for batch in loader:
            moved = batch if device is None else move_batch(batch, torch.device(device))
            logits = model_logits(model, moved)
            target = binary_labels(moved)
            losses.append(classification_loss(logits, target).double().cpu())
            scores.append(_scores(logits).double().cpu())
            labels.append(target.cpu())
    known, values = torch.cat(labels).numpy(), torch.cat(scores).numpy()
    if len(set(known.tolist())) < 2:
        found_labels = sorted(set(known.tolist()))
        raise ProbeError(
            f"expected real and fake images to evaluate on, got only the labels {found_labels}; pass a loader with both"
        )
    finite = bool(np.isfinite(values).all())
    found = auc(values[known == 0], values[known == 1]) if finite else Auc(np.nan, np.nan, np.nan, len(values))
    return Evaluation(found, float(torch.cat(losses).mean()), float(values.std()), values, known)


def _scores(logits: Tensor) -> Tensor:
    rows = logits.reshape(logits.shape[0], -1) if logits.ndim else logits.reshape(1, 1)
    if rows.shape[1] > 2:
        raise ProbeError(
            f"expected one logit per image, or two, got {rows.shape[1]}; build the model with num_outputs=1"
        )
    return rows[:, 0] if rows.shape[1] == 1 else rows[:, 1] - rows[:, 0]
