"""The margin radius of a plain run, from the losses and gradient norms of its steps."""

from __future__ import annotations

import math

import numpy as np

from gsnr_toolkit.search.trial import Trace

WINDOW = 10


def margin_of_trace(trace: Trace, plateau_loss: float, *, share: float = 0.5) -> float:
    r"""Return :math:`(L_0 - L) / G` where a run has made a share of the largest gain it makes.

    Loss and norm are means of 10 steps.

    Args:
        trace: Losses and gradient norms, one per step.
        plateau_loss: Loss of the best constant prediction.
        share: Share of the gain.

    Returns:
        The margin radius; NaN if the run is too short, or has gained nothing.

    >>> run = Trace([0.7] * 20 + [0.5] * 20 + [0.3] * 20, [1.0] * 60)
    >>> round(margin_of_trace(run, 0.7), 3)
    0.2
    """
    if len(trace.losses) < WINDOW:
        return math.nan
    window = np.ones(WINDOW) / WINDOW
    losses, norms = (np.convolve(values, window, "valid") for values in (trace.losses, trace.norms))
    gains = plateau_loss - losses
    best = float(np.nanmax(gains)) if np.isfinite(gains).any() else 0.0
    if best <= 0:
        return math.nan
    first = int(np.argmax(gains >= share * best))
    return float(gains[first] / norms[first]) if norms[first] > 0 else math.nan
