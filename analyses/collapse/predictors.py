"""What can be read off a plain run before SAM is tried: candidates for the radius at which SAM training will fail.

All come from the report that was recorded along runs with rho = 0. COR, alignment and half-cosine radii are the
smallest over the recorded steps at which the whole model has a signal; the other quantities are taken at COR's step.

* ``cor``: Definition 1 (our reconstruction), whole model; ``cor_layer``: the smallest of any layer.
* ``escape_radius``: ours, from losses and gradient norms along the run; ``escape_lower``: the same with the plateau's
  gradient norm taken as 0, ``max_t (L_0 - L_t) / G_t``: a lower bound that needs no measurement on the plateau.
* ``alignment_radius``: first radius with ``E<mu, g~> <= 0``; ``half_cosine_radius``: first with ``cos(mu, g~) < 1/2``.
* ``slope_radius``: ``|mu| / L``, with ``L`` the drift per radius at the smallest radius with a drift above its noise.
* ``lipschitz_radius``: ``|mu| / lambda_max(|H|)``, by Lanczos on the same samples, from a second record of the run.
* ``sam_edge``: the radius at which SAM's edge of stability (Long & Bartlett, JMLR 2024) for full-batch gradient descent
  with the run's learning rate meets the slope ``L``: ``rho = g (2 / eta - L) / L^2``. Training here is by Adam, whose
  steps it does not describe.
* ``grad_norm`` and ``gsnr``: ``|mu|`` and ``|mu|^2 / tr Sigma``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from gsnr_toolkit import Report
from gsnr_toolkit.estimators.escape import escape_bound, escape_radius
from gsnr_toolkit.training.diagnosis import PLATEAU

RADII = (
    "cor",
    "cor_layer",
    "escape_radius",
    "escape_lower",
    "alignment_radius",
    "half_cosine_radius",
    "slope_radius",
    "lipschitz_radius",
    "sam_edge",
)
"""Candidates in units of a radius."""

OTHERS = ("grad_norm", "gsnr", "signal_fraction", "misspecification")
"""Candidates in other units, which need a fit before they say anything about a radius."""


def read_predictors(report: Report, learning_rate: float, second: Report | None = None) -> dict[str, float]:
    """Candidates from one recorded plain run, over all of its steps.

    Args:
        report: What was recorded.
        learning_rate: Of the run.
        second: The second record, with the Lanczos radius, where there is one.

    Returns:
        Candidate to value: infinity beyond the radii tried, NaN where there is no signal or no record.
    """
    totals = report.totals[report.totals["cor"].notna()]
    found = dict.fromkeys((*RADII, *OTHERS, "cor_step"), math.nan)
    found["escape_radius"], found["escape_lower"] = escape(report.trajectory), escape_lower(report.trajectory)
    if second is not None:
        found["lipschitz_radius"] = float(second.total["lipschitz_radius"])
    if totals.empty:
        return found
    at = totals.loc[totals["cor"].idxmin()]
    curves = [_curve(report, int(step)) for step in totals["step"]]
    layers = report.layers[report.layers["step"].isin(totals["step"])]
    slope = _slope(_curve(report, int(at["step"])))
    return found | {
        "cor": float(at["cor"]),
        "cor_step": float(at["step"]),
        "cor_layer": float(layers["cor"].min()),
        "alignment_radius": float(totals["alignment_radius"].min()),
        "half_cosine_radius": min(_first_below(curve, 0.5) for curve in curves),
        "slope_radius": float(at["grad_norm"]) / slope,
        "sam_edge": _sam_edge(float(at["grad_norm"]), slope, learning_rate),
        **{name: float(at[name]) for name in OTHERS},
    }


def escape(run: pd.DataFrame) -> float:
    """The escape radius from the means by step, whichever version recorded them.

    Args:
        run: ``step``, ``loss`` and ``batch_grad_norm`` along a plain run.

    Returns:
        ``max_t (L_0 - L_t) / (G_t - G_0)``; infinity and NaN as :func:`gsnr_toolkit.estimators.escape.escape_radius`.
    """
    losses, norms = _two_batches(run)
    return escape_radius(run["step"].astype(int).tolist(), losses, norms, draws=2).value


def _two_batches(run: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Means as two equal batches: the interval, which needs more than means, is not asked for."""
    losses, norms = (np.repeat(run[[name]].to_numpy(dtype=float), 2, axis=1) for name in ("loss", "batch_grad_norm"))
    return losses, norms


def escape_lower(run: pd.DataFrame) -> float:
    """The escape radius's lower bound over all recorded steps, those on the plateau too.

    Args:
        run: ``loss`` and ``batch_grad_norm`` along a plain run.

    Returns:
        ``max_t (L_0 - L_t) / G_t``: of a run that leaves the plateau the same as ``report.escape.bound``; next to 0 of
        one that does not, where that is undefined.
    """
    gain = PLATEAU - run["loss"].to_numpy(dtype=float)
    return float(np.max(gain / run["batch_grad_norm"].to_numpy(dtype=float)))


def escape_below(run: pd.DataFrame) -> float:
    """The escape radius's lower bound as reports have it, from the means by step.

    Args:
        run: ``loss`` and ``batch_grad_norm`` along a plain run.

    Returns:
        The same over the steps below the plateau; NaN where there are none.
    """
    return escape_bound(*_two_batches(run), PLATEAU)


def _curve(report: Report, step: int) -> pd.DataFrame:
    rows = report.drift[(report.drift["step"] == step) & (report.drift["group"] == "total")]
    return rows.sort_values("rho")


def _slope(curve: pd.DataFrame) -> float:
    """Drift per radius at the smallest radius with a drift above its noise; NaN where there is none."""
    moved = curve[curve["drift"] > 0]
    if moved.empty:
        return math.nan
    first = moved.iloc[0]
    return float(first["drift"] / first["rho"])


def cosines(curve: pd.DataFrame) -> np.ndarray:
    """Cosine between the mean gradient and SAM's mean gradient, for each radius of a drift curve.

    Args:
        curve: Rows of a report's ``drift`` table with ``grad_norm`` (``|mu|``), ``drift`` (``|Delta|``) and
            ``alignment`` (``a = <mu, g~> / |mu|^2``).

    Returns:
        ``<mu, g~> / (|mu| |g~|) = a |mu| / |g~|`` with ``|g~|^2 = (2 a - 1) |mu|^2 + |Delta|^2``.
    """
    mu, relative, drift = (curve[name].to_numpy(dtype=float) for name in ("grad_norm", "alignment", "drift"))
    with np.errstate(invalid="ignore", divide="ignore"):
        return relative * mu / np.sqrt((2 * relative - 1) * mu**2 + drift**2)


def _first_below(curve: pd.DataFrame, level: float) -> float:
    """First radius with a cosine below a level, between radii tried by their logarithms; infinity if there is none."""
    values, radii = cosines(curve), curve["rho"].to_numpy(dtype=float)
    below = np.flatnonzero(values < level)
    if not below.size:
        return math.inf
    k = int(below[0])
    if k == 0 or not np.isfinite(values[k - 1]):
        return float(radii[k])
    share = (values[k - 1] - level) / (values[k - 1] - values[k])
    return float(np.exp(np.log(radii[k - 1]) + share * np.log(radii[k] / radii[k - 1])))


def _sam_edge(norm: float, curvature: float, learning_rate: float) -> float:
    return norm * max(0.0, 2 / learning_rate - curvature) / curvature**2


def setting_predictors(records: Sequence[tuple[Report, Report | None]], learning_rate: float) -> dict[str, float]:
    """Candidates of a setting: over its seeds' plain runs.

    Args:
        records: Of each run, and the second ones where they exist.
        learning_rate: Of the runs.

    Returns:
        Candidate to value: :func:`over_seeds`.
    """
    return over_seeds(pd.DataFrame([read_predictors(first, learning_rate, second) for first, second in records]))


def over_seeds(rows: pd.DataFrame) -> dict[str, float]:
    """One value of each candidate for a setting.

    Args:
        rows: A row per seed.

    Returns:
        Geometric means, NaN if any seed has none; of ``cor_step`` the median.

    >>> found = over_seeds(pd.DataFrame({"cor": [0.01, 0.04], "cor_step": [40.0, 80.0]}))
    >>> round(found["cor"], 6), found["cor_step"]
    (0.02, 60.0)
    """
    values = rows.drop(columns="cor_step")
    means = np.exp(np.log(values.where(values > 0)).mean(axis=0, skipna=False))
    steps = {"cor_step": float(rows["cor_step"].median())}
    return {str(name): float(value) for name, value in means.items()} | steps
