"""Which radii to measure: a grid first, then the crossings that the grid shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gsnr_toolkit.estimators.cor import group_cor
from gsnr_toolkit.estimators.evidence import DriftMeasurement
from gsnr_toolkit.inputs.options import ProbeOptions
from gsnr_toolkit.types import Floats

_CLOSE = 0.02
"""A crossing within 2 % of a measured radius is not measured again."""


def measure_at_crossings(
    measure: Callable[[Sequence[float]], DriftMeasurement], signal_sq: Floats, options: ProbeOptions
) -> DriftMeasurement:
    """Measure the drift on the grid, then at the radii where it reaches the signal.

    COR is interpolated between radii, so a radius at the crossing itself removes most of the interpolation error.

    Args:
        measure: Measures the drift at given radii, on the same mini-batches each time.
        signal_sq: Debiased ``|mu|^2`` of each group and of the whole model, shape ``(G + 1,)``.
        options: For the grid and the number of refinements.

    Returns:
        The drift at all radii measured.
    """
    found = measure(options.grid)
    grams = found.grams
    for _ in range(options.refine):
        cor = group_cor(grams, signal_sq, confidence=options.confidence, draws=2, seed=options.seed).cor
        crossings = _new_radii(cor, grams.radii)
        if not crossings:
            break
        grams = grams.merged(measure(crossings).grams)
    return DriftMeasurement(grams, found.losses, found.norms)


def _new_radii(cor: Floats, tried: Floats) -> Sequence[float]:
    """Crossings of the whole model and of the weakest layer, unless a measured radius is close."""
    good = np.isfinite(cor) & (cor > 0)
    wanted = {float(cor[-1])} if good[-1] else set()
    if good[:-1].any():
        wanted.add(float(cor[:-1][good[:-1]].min()))
    return sorted(rho for rho in wanted if np.abs(np.log(tried / rho)).min() > _CLOSE)
