"""How well a candidate foretells the radius at which training fails, over settings, with bootstrap intervals."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

Floats = NDArray[np.float64]

DRAWS = 2000

CONSTANT = "constant"
"""The guess without any measurement: one radius for all settings, fitted on the others."""

_NUMBERS = (
    "spearman", "spearman_low", "spearman_high", "slope", "raw_factor", "calibrated_factor", "calibrated_low",
    "calibrated_high", "fitted_factor", "calibration",
)  # fmt: skip


def score(predicted: Floats, empirical: Floats, *, seed: int = 0) -> dict[str, float]:
    """Return the scores of one candidate over settings; NaN if fewer than four are left.

    Settings without a finite positive candidate or empirical radius are left out; their number is reported.

    * ``spearman``: rank correlation, with a percentile interval of a bootstrap over settings.
    * ``raw_factor``: typical factor of error without calibration, ``exp(median |log(predicted / empirical)|)``.
    * ``calibrated_factor``: the same after multiplication by one constant, ``exp(mean log(empirical / predicted))``,
      fitted on all other settings.
    * ``fitted_factor``: the same after a power law ``empirical = a predicted^b`` fitted on all other settings, for
      candidates that are not radii; ``slope`` is b fitted on all settings.

    >>> found = score(np.array([1.0, 2.0, 4.0, 8.0]), np.array([2.0, 4.0, 8.0, 16.0]))
    >>> round(found["spearman"], 3), round(found["raw_factor"], 3), round(found["calibrated_factor"], 3)
    (1.0, 2.0, 1.0)
    """
    good = np.isfinite(predicted) & np.isfinite(empirical) & (predicted > 0) & (empirical > 0)
    found = {"num_settings": int(good.sum()), "num_missing": int((~good).sum()), **dict.fromkeys(_NUMBERS, math.nan)}
    if good.sum() < 4:
        return found
    x, y = np.log(predicted[good]), np.log(empirical[good])
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(x), len(x)) for _ in range(DRAWS)]
    ranks = np.array([_spearman(x[rows], y[rows]) for rows in draws])
    errors = np.abs(_left_out_constant(x, y))
    spread = np.array([np.median(errors[rows]) for rows in draws])
    low, high = np.nanpercentile(ranks, [2.5, 97.5]) if np.isfinite(ranks).any() else (math.nan, math.nan)
    return found | {
        "spearman": _spearman(x, y),
        "spearman_low": float(low),
        "spearman_high": float(high),
        "slope": float(np.polyfit(x, y, 1)[0]) if np.ptp(x) > 0 else math.nan,
        "raw_factor": float(np.exp(np.median(np.abs(x - y)))),
        "calibrated_factor": float(np.exp(np.median(errors))),
        "calibrated_low": float(np.exp(np.percentile(spread, 2.5))),
        "calibrated_high": float(np.exp(np.percentile(spread, 97.5))),
        "fitted_factor": float(np.exp(np.median(np.abs(_left_out_line(x, y))))),
        "calibration": float(np.exp(np.mean(y - x))),
    }


def _spearman(x: Floats, y: Floats) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(spearmanr(x, y).statistic)


def _left_out_constant(x: Floats, y: Floats) -> Floats:
    """Residual of each setting after a constant fitted on the others."""
    gaps = y - x
    return gaps - (gaps.sum() - gaps) / (len(gaps) - 1)


def _left_out_line(x: Floats, y: Floats) -> Floats:
    """Residual of each setting after a line fitted on the others."""
    residuals = np.full(len(x), np.nan)
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        if np.ptp(x[others]) > 0:
            residuals[i] = y[i] - np.polyval(np.polyfit(x[others], y[others], 1), x[i])
    return residuals


def combined_score(columns: list[Floats], empirical: Floats) -> dict[str, float]:
    """Return the scores of several candidates together, to see whether a second one adds to the first.

    The logarithm of the radius is fitted on those of the candidates by least squares, leaving one setting out at a
    time; ``spearman`` is the rank correlation of the left-out predictions.
    """
    design = np.stack([np.log(np.where(column > 0, column, np.nan)) for column in columns], 1)
    target = np.log(np.where(empirical > 0, empirical, np.nan))
    good = np.isfinite(design).all(1) & np.isfinite(target)
    x, y = np.column_stack([np.ones(good.sum()), design[good]]), target[good]
    if len(y) < x.shape[1] + 2:
        return {"num_settings": len(y), "fitted_factor": math.nan, "spearman": math.nan}
    predicted = np.empty(len(y))
    for i in range(len(y)):
        others = np.arange(len(y)) != i
        predicted[i] = x[i] @ np.linalg.lstsq(x[others], y[others], rcond=None)[0]
    factor = float(np.exp(np.median(np.abs(predicted - y))))
    return {"num_settings": len(y), "fitted_factor": factor, "spearman": _spearman(predicted, y)}


def score_table(settings: pd.DataFrame, candidates: list[str], target: str = "empirical_radius") -> pd.DataFrame:
    """Score the candidates, and the guess that all settings fail at one radius; best rank correlation first."""
    found = settings[target].to_numpy(dtype=float)
    rows = [{"candidate": name, **score(settings[name].to_numpy(dtype=float), found)} for name in candidates]
    rows.append({"candidate": CONSTANT, **score(np.ones(len(found)), found)})
    return pd.DataFrame(rows).sort_values("spearman", ascending=False, ignore_index=True)
