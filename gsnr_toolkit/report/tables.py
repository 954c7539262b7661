"""From evidence and estimates to the rows of a report's tables. Each row is built once and not changed afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gsnr_toolkit.estimators.cor import GroupCOR, decompose
from gsnr_toolkit.estimators.estimates import Estimates
from gsnr_toolkit.estimators.evidence import Evidence
from gsnr_toolkit.estimators.gsnr import GroupGSNR, samples_needed
from gsnr_toolkit.estimators.uncertainty import student_quantile
from gsnr_toolkit.report.numbers import number
from gsnr_toolkit.report.outcome import collapse_outcome
from gsnr_toolkit.types import Floats

if TYPE_CHECKING:
    import pandas as pd

TOTAL = "total"
"""Name of the whole model's row."""

Row = dict[str, Any]


def layer_rows(evidence: Evidence, estimates: Estimates, rho: float) -> list[Row]:
    """Build one row for each group, and one for the whole model at the end.

    Args:
        evidence: Names, depths and sizes of the groups, and the radii that were measured.
        estimates: Estimates of the same groups and the whole model.
        rho: The SAM radius asked about.

    Returns:
        Rows with the columns of :class:`~gsnr_toolkit.report.report.Report`.
    """
    rows = gsnr_rows(evidence.members, evidence.depths, evidence.sizes, estimates.gsnr, estimates.parameters)
    if estimates.cor is not None and evidence.drift is not None:
        largest = float(evidence.drift.grams.radii[-1])
        rows = [row | _cor_columns(row, estimates.cor, i, rho, largest) for i, row in enumerate(rows)]
    further = estimates.columns.items()
    return [row | {name: float(values[i]) for name, values in further} for i, row in enumerate(rows)]


def gsnr_rows(
    names: Iterable[str],
    depths: Sequence[int],
    sizes: Sequence[int],
    estimate: GroupGSNR,
    parameters: Sequence[dict[str, float]],
) -> list[Row]:
    """Build the GSNR columns of each group's row, and of the whole model's at the end.

    Args:
        names: Groups in depth order.
        depths: Depth of each group.
        sizes: Number of scalar parameters of each group.
        estimate: GSNR of the same groups and the whole model.
        parameters: Distribution of the per-parameter GSNR of the same groups and the whole model.

    Returns:
        Rows with the columns of a GSNR report.
    """
    places = [*zip(names, depths, sizes, strict=True), (TOTAL, -1, sum(sizes))]
    rows = []
    for i, (name, depth, size) in enumerate(places):
        gsnr = float(estimate.gsnr[i])
        row = {
            "group": name,
            "depth": depth,
            "num_params": size,
            "num_samples": estimate.count,
            "gsnr": gsnr,
            "gsnr_low": float(estimate.low[i]),
            "gsnr_high": float(estimate.high[i]),
            "gsnr_plugin": float(estimate.plugin[i]),
            "noise_floor": 1 / estimate.count,
            "noise_scale": 1 / gsnr if gsnr > 0 else float("nan"),
            "trace_covariance": float(estimate.trace_covariance[i]),
            "mean_grad_sqnorm": float(estimate.mean_sqnorm[i]),
            **parameters[i],
        }
        status, message = gsnr_status(row)
        rows.append({**row, "status": status, "message": message})
    return rows


def gsnr_status(row: Row) -> tuple[str, str]:
    """Name the status of a GSNR row.

    Returns:
        ``"ok"``, ``"no_signal"`` or ``"undefined"``, and a sentence with what to do.
    """
    if np.isnan(row["gsnr"]):
        return "undefined", (
            "undefined: the per-sample gradients have zero variance; the loss may not reach these parameters, or "
            "something behind them is exactly zero (a zero-initialised head): train a few steps or leave them out"
        )
    if np.isnan(row["gsnr_low"]):
        return "undefined", "undefined: too few blocks of samples for an interval; give more samples"
    if not row["gsnr_low"] > 0:
        needed = samples_needed(row["num_samples"], row["gsnr"], row["gsnr_low"], row["gsnr_high"])
        how_many = (
            f"at least {number(needed)} samples are needed, and perhaps none is enough"
            if np.isfinite(needed)
            else "more samples may not help"
        )
        return "no_signal", (
            f"no signal: with {row['num_samples']} samples the mean gradient is indistinguishable from noise; "
            f"{how_many}"
        )
    return "ok", f"GSNR {row['gsnr']:.3g} [{row['gsnr_low']:.3g}, {row['gsnr_high']:.3g}]"


def _cor_columns(row: Row, estimate: GroupCOR, i: int, rho: float, largest: float) -> Row:
    """COR of one group, its interval and its decomposition; status and message replace those of the GSNR."""
    status, message = cor_status(row, float(estimate.cor[i]), largest)
    defined = status in ("ok", "above_max_radius")
    cor = float(estimate.cor[i]) if defined else float("nan")
    low = float(estimate.low[i]) if status != "undefined" else float("nan")
    high = float(estimate.high[i]) if status != "undefined" else float("nan")
    outcome = collapse_outcome({"status": status, "cor_low": low, "cor_high": high}, rho)
    parts = decompose(np.array(cor), np.array(row["mean_grad_sqnorm"]), np.array(row["trace_covariance"]))
    return {
        "status": status,
        "message": f"descent certified up to rho = {cor:.3g} [{low:.3g}, {high:.3g}]" if status == "ok" else message,
        "cor": cor,
        "cor_low": low,
        "cor_high": high,
        "alignment_radius": float(estimate.alignment_radius[i]) if defined else float("nan"),
        "signal_fraction": float(parts.signal_fraction),
        "misspecification": float(parts.misspecification),
        "grad_norm": float(parts.grad_norm),
        "in_collapse_zone": float("nan") if outcome == "undecided" else outcome == "inside",
    }


def cor_status(row: Row, cor: float, largest: float) -> tuple[str, str]:
    """Name the status of a COR row.

    Returns:
        ``"ok"``, ``"no_signal"``, ``"above_max_radius"`` or ``"undefined"``, and a sentence.
    """
    if row["status"] == "undefined":
        return row["status"], row["message"]
    if row["status"] == "no_signal" or np.isnan(cor):
        sentence = row["message"] if row["status"] == "no_signal" else "no signal: the mean gradient is not above zero"
        return "no_signal", f"{sentence}; COR is indistinguishable from zero"
    if np.isinf(cor):
        return "above_max_radius", (
            f"above the largest radius tried: descent is certified at rho = {largest:.3g}; pass larger radii to go on"
        )
    return "ok", ""


def drift_rows(evidence: Evidence, estimates: Estimates) -> list[Row]:
    """Build the drift curve: one row for each group and radius.

    Args:
        evidence: The groups and the radii that were measured.
        estimates: Estimates of the same groups and the whole model.

    Returns:
        Rows with the columns group, rho, drift, drift_low, drift_high, grad_norm, alignment; none without COR.
    """
    if evidence.drift is None or estimates.cor is None:
        return []
    cor, signal_sq = estimates.cor, estimates.gsnr.mean_sqnorm
    return [
        {
            "group": name,
            "rho": float(rho),
            "drift": float(cor.drift[r, i]),
            "drift_low": float(cor.drift_low[r, i]),
            "drift_high": float(cor.drift_high[r, i]),
            "grad_norm": float(np.sqrt(max(signal_sq[i], 0.0))),
            "alignment": float(cor.alignment[r, i]),
        }
        for i, name in enumerate([*evidence.members, TOTAL])
        for r, rho in enumerate(evidence.drift.grams.radii)
    ]


def to_frame(rows: list[Row], step: int) -> pd.DataFrame:
    """Turn rows into a DataFrame whose first column is the step; empty if there are no rows."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    frame.insert(0, "step", step)
    return frame


def trajectory_row(losses: Floats, norms: Floats | None, confidence: float) -> Row:
    """Compute the mean loss with its interval, and the mean norm of the mini-batch gradients.

    Args:
        losses: Loss of each sample, shape ``(n,)``.
        norms: Gradient norm of each mini-batch, shape ``(K,)``; None if they were not measured.
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
