"""What only a run of several measured steps can tell: the loss curve and the escape radius."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gsnr_toolkit.estimators.escape import EscapeRadius, escape_radius
from gsnr_toolkit.estimators.uncertainty import Floats, student_quantile
from gsnr_toolkit.options import ProbeOptions


def trajectory_row(losses: Floats, norms: Floats | None, confidence: float) -> dict[str, Any]:
    """Loss and batch gradient norm at one step.

    Args:
        losses: Losses of samples, shape ``(n,)``.
        norms: Gradient norms of batches, or None where not measured.
        confidence: Nominal coverage of the loss's t-interval.

    Returns:
        The columns loss, loss_low, loss_high, batch_grad_norm.
    """
    count = len(losses)
    reach = student_quantile(confidence, count - 1) * losses.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
    mean = float(losses.mean())
    norm = float("nan") if norms is None else float(norms.mean())
    return {
        "loss": mean,
        "loss_low": mean - float(reach),
        "loss_high": mean + float(reach),
        "batch_grad_norm": norm,
    }


def run_escape(
    steps: Sequence[int],
    batches: Sequence[tuple[Floats, Floats]],
    label_entropy: float | None,
    options: ProbeOptions,
) -> EscapeRadius:
    """Escape radius of the steps measured so far.

    Args:
        steps: Measured steps.
        batches: Losses and gradient norms of common batches at each of them, each of shape ``(K,)``; empty where they
            were not measured.
        label_entropy: Entropy of the class frequencies in nats: the plateau. The first step's loss when None.
        options: For the confidence and the seed.

    Returns:
        The escape radius.
    """
    if not batches:
        nothing = float("nan")
        message = "undefined in the readout reading, and without COR: it needs the model's own mini-batch gradients"
        return EscapeRadius(nothing, nothing, nothing, -1, "undefined", message)
    losses, norms = (np.stack(column) for column in zip(*batches, strict=True))
    return escape_radius(
        list(steps),
        losses,
        norms,
        plateau_loss=float(losses[0].mean()) if label_entropy is None else label_entropy,
        confidence=options.confidence,
        seed=options.seed,
    )
