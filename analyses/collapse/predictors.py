"""Candidates for the radius at which SAM training will fail, read off a plain run before SAM is tried.

All are computed from the report recorded along a run with rho = 0. COR and the alignment and half-cosine radii are
minima over the recorded steps at which the whole model has a signal; the other quantities are taken at COR's step.

* ``cor``: Definition 1 (our reconstruction), whole model; ``cor_layer``: the smallest of any layer.
* ``escape_radius``: ours, from losses and gradient norms along the run. ``escape_lower``: the same with a gradient norm
  of 0 on the plateau, ``max_t (L_0 - L_t) / G_t``: a lower bound that needs no measurement there.
* ``alignment_radius``: first radius with ``E<mu, g~> <= 0``; ``half_cosine_radius``: first with ``cos(mu, g~) < 1/2``.
* ``slope_radius``: ``|mu| / L``, where ``L`` is the drift per radius at the smallest radius whose drift exceeds its
  noise.
* ``lipschitz_radius``: ``|mu| / lambda_max(|H|)``, by Lanczos on the same samples, from a second record of the run.
* ``sam_edge``: the radius at which the edge of stability of SAM (Long & Bartlett, JMLR 2024) for full-batch gradient
  descent with the run's learning rate meets the slope ``L``: ``rho = g (2 / eta - L) / L^2``. The runs here use Adam,
  whose steps it does not describe.
* ``grad_norm`` and ``gsnr``: ``|mu|`` and ``|mu|^2 / tr Sigma``.
"""

from __future__ import annotations

import math

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
"""Candidates that are radii."""

OTHERS = ("grad_norm", "gsnr", "signal_fraction", "misspecification")
"""Candidates in other units, which say nothing about a radius without a fit."""


def read_predictors(report: Report, learning_rate: float, second: Report | None = None) -> dict[str, float]:
    """Return the candidates of one recorded plain run, over all of its steps.

    A candidate is infinity beyond the radii tried, and NaN without a signal or a record. The Lanczos radius is that of
    the second record.
    """
    totals = report.totals[report.totals["cor"].notna()]
    found = dict.fromkeys((*RADII, *OTHERS, "cor_step"), math.nan)
    found["escape_radius"] = escape(report.trajectory)
    found["escape_lower"] = escape_lower(report.trajectory, below_plateau=False)
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
    """Return the escape radius from ``loss`` and ``batch_grad_norm`` by step, which records of any version hold."""
    return escape_radius(run["step"].astype(int).tolist(), *_two_batches(run), draws=2).value


def escape_lower(run: pd.DataFrame, *, below_plateau: bool) -> float:
    """Return the lower bound of the escape radius, ``max_t (L_0 - L_t) / G_t``, from the means by step.

    With ``below_plateau`` the maximum is over the steps below the plateau only, as in ``report.escape.bound``, and NaN
    if there is none. Otherwise it is over all steps. The two agree for a run that leaves the plateau. For one that does
    not, the second is next to 0. The tables by setting hold the second, as those of the whole run were written with it;
    the early scores use the first, as reports do.
    """
    losses, norms = _two_batches(run)
    if below_plateau:
        return escape_bound(losses, norms, PLATEAU)
    return float(np.max((PLATEAU - losses) / norms))


def _two_batches(run: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Repeat the means as two equal batches: the estimators expect batches, though their intervals are not used."""
    losses, norms = (np.repeat(run[[name]].to_numpy(dtype=float), 2, axis=1) for name in ("loss", "batch_grad_norm"))
    return losses, norms


def _curve(report: Report, step: int) -> pd.DataFrame:
    rows = report.drift[(report.drift["step"] == step) & (report.drift["group"] == "total")]
    return rows.sort_values("rho")


def _slope(curve: pd.DataFrame) -> float:
    """Drift per radius at the smallest radius whose drift exceeds its noise; NaN if none does."""
    moved = curve[curve["drift"] > 0]
    if moved.empty:
        return math.nan
    first = moved.iloc[0]
    return float(first["drift"] / first["rho"])


def cosines(curve: pd.DataFrame) -> np.ndarray:
    """Return the cosine between the mean gradient and SAM's mean gradient at each radius of a report's drift curve.

    With ``|mu|`` = ``grad_norm``, ``|Delta|`` = ``drift`` and ``a = <mu, g~> / |mu|^2`` = ``alignment`` it is
    ``<mu, g~> / (|mu| |g~|) = a |mu| / |g~|``, where ``|g~|^2 = (2 a - 1) |mu|^2 + |Delta|^2``.
    """
    mu, relative, drift = (curve[name].to_numpy(dtype=float) for name in ("grad_norm", "alignment", "drift"))
    with np.errstate(invalid="ignore", divide="ignore"):
        return relative * mu / np.sqrt((2 * relative - 1) * mu**2 + drift**2)


def _first_below(curve: pd.DataFrame, level: float) -> float:
    """First radius with a cosine below a level, interpolated in log rho; infinity if there is none."""
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


def over_seeds(rows: pd.DataFrame) -> dict[str, float]:
    """Return the geometric mean of each candidate over seeds; for ``cor_step`` the median.

    A candidate without a positive value in some seed is NaN.

    >>> found = over_seeds(pd.DataFrame({"cor": [0.01, 0.04], "cor_step": [40.0, 80.0]}))
    >>> round(found["cor"], 6), found["cor_step"]
    (0.02, 60.0)
    """
    values = rows.drop(columns="cor_step")
    means = np.exp(np.log(values.where(values > 0)).mean(axis=0, skipna=False))
    steps = {"cor_step": float(rows["cor_step"].median())}
    return {str(name): float(value) for name, value in means.items()} | steps
