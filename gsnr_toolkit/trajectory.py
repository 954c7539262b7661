"""What only a run of several measured steps can tell: the loss curve and the escape radius."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gsnr_toolkit.estimators.escape import EscapeRadius, escape_radius
from gsnr_toolkit.estimators.uncertainty import Floats, student_quantile
from gsnr_toolkit.options import ProbeOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gsnr_toolkit.measurement import Measured


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


def run_escape(measured: Sequence[Measured], options: ProbeOptions) -> EscapeRadius:
    """Escape radius of the steps measured so far.

    Args:
        measured: Measurements of one run, in order, on common batches.
        options: For the confidence and the seed.

    Returns:
        The escape radius; its plateau is the entropy of the class frequencies, or the first step's loss where
        labels could not be read.
    """
    drifts = [item.drift for item in measured if item.drift is not None]
    if not drifts:
        nothing = float("nan")
        message = "undefined in the readout reading: it needs the model's own gradients (layerwise='parameters')"
        return EscapeRadius(nothing, nothing, nothing, -1, "undefined", message)
    losses = np.stack([drift.losses for drift in drifts])
    plateau = measured[0].label_entropy
    return escape_radius(
        [int(item.report.totals["step"].iloc[0]) for item in measured],
        losses,
        np.stack([drift.norms for drift in drifts]),
        plateau_loss=float(losses[0].mean()) if plateau is None else plateau,
        confidence=options.confidence,
        seed=options.seed,
    )
