r"""Margin radius: up to it, SAM prefers what training has reached to the plateau (our criterion, first order).

SAM minimises about :math:`L(\theta) + \rho\, E|g_B(\theta)|`. The *plateau* is the best constant prediction, with loss
:math:`L_0` and a gradient that vanishes on average. A state beyond it is better for SAM only while

.. math:: L_t + \rho\, G_t < L_0, \qquad\text{that is}\qquad \rho < m_t = \frac{L_0 - L_t}{G_t}, \quad G_t = E|g_B|.

Along a run, the margin :math:`m_t` grows with what has been gained. It is read at the measured step whose gain
:math:`L_0 - L_t` is nearest to half of the largest one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gsnr_toolkit.estimators.uncertainty import bootstrap_weights, expanded_percentiles
from gsnr_toolkit.types import Floats

SHARE = 0.5
"""Share of the largest measured gain at which the margin is read."""

_ERRORS = 2.0
"""Standard errors by which a loss must lie below the plateau."""


@dataclass(frozen=True)
class Margin:
    """The margin radius of a plain run.

    Attributes:
        value: Radius; NaN if undefined.
        low: Lower confidence limit.
        high: Upper confidence limit.
        status: ``"ok"``, ``"on_plateau"`` (the loss is not below that of a constant prediction) or ``"undefined"``.
        message: The status as a sentence.
        step: Step at which it was read; -1 if undefined.
        gained: Share of the plateau's loss that the run has gained by its best measured step.
        plateau_loss: Loss of the best constant prediction.
    """

    value: float
    low: float
    high: float
    status: str
    message: str
    step: int = -1
    gained: float = math.nan
    plateau_loss: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return field name to value, for a file."""
        return asdict(self)


def undefined_margin(reason: str) -> Margin:
    """Return a margin that cannot be computed, with the reason."""
    return Margin(math.nan, math.nan, math.nan, "undefined", f"undefined: {reason}")


def margin_radius(
    steps: Sequence[int],
    losses: Floats,
    norms: Floats,
    *,
    plateau_loss: float,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Margin:
    """Estimate the margin radius of a run without SAM from its mini-batch losses and gradient norms.

    The steps are measured on common mini-batches, and the interval is a bootstrap over them. It does not contain the
    difference between runs. Where the mini-batches are training data that the run has fitted, the margin is too large.

    Args:
        steps: Measured steps, shape ``(T,)``.
        losses: Mean loss of each of K common mini-batches at each step, shape ``(T, K)``.
        norms: Gradient norm of each mini-batch at each step, shape ``(T, K)``.
        plateau_loss: Loss of the best constant prediction, in the unit of the losses.
        confidence: Nominal coverage.
        draws: Bootstrap draws.
        seed: Seed of the draws.

    Returns:
        Radius, interval, and a status with a sentence.

    >>> losses, norms = np.full((2, 4), [[0.7], [0.3]]), np.full((2, 4), [[1.0], [5.0]])
    >>> found = margin_radius([0, 9], losses, norms, plateau_loss=0.7)
    >>> found.status, round(found.value, 3)
    ('ok', 0.08)
    """
    count = losses.shape[1]
    if count < 2:
        return undefined_margin("it needs at least two mini-batches; give more samples or a smaller batch_size")
    error = losses.std(1, ddof=1) / math.sqrt(count)
    gains = plateau_loss - losses.mean(1)
    below = gains > _ERRORS * error
    gained = float(gains.max() / plateau_loss)
    if not below.any():
        message = (
            f"unknown: after {steps[-1]} steps the loss is still that of a constant prediction, {plateau_loss:.3g}"
        )
        return Margin(math.nan, math.nan, math.nan, "on_plateau", message, gained=gained, plateau_loss=plateau_loss)
    distance = np.where(below, np.abs(gains - SHARE * gains.max()), math.inf)
    row = int(distance.argmin())
    with np.errstate(divide="ignore"):
        value = float(gains[row] / norms[row].mean())
        weights = bootstrap_weights(count, draws, seed) / count
        samples = np.maximum(plateau_loss - weights @ losses[row], 0.0) / (weights @ norms[row])
    low, high = expanded_percentiles(samples, count, confidence)
    message = (
        f"SAM is expected to train up to rho = {value:.2g}: read at step {steps[row]}, where the loss is "
        f"{gains[row] / plateau_loss:.0%} below that of a constant prediction"
    )
    return Margin(value, float(low), float(high), "ok", message, int(steps[row]), gained, plateau_loss)
