"""From estimates to the tidy rows that a report holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gsnr_toolkit.estimators.cor import DriftGrams, GroupCOR, decompose
from gsnr_toolkit.estimators.gsnr import GroupGSNR, samples_needed
from gsnr_toolkit.estimators.uncertainty import student_quantile
from gsnr_toolkit.types import Floats

if TYPE_CHECKING:
    import pandas as pd

TOTAL = "total"
"""Name of the whole model's row."""


def gsnr_rows(
    groups: list[tuple[str, int, int]], estimate: GroupGSNR, parameter_summary: list[dict[str, float]]
) -> list[dict[str, Any]]:
    """One row per group, the whole model last.

    Args:
        groups: ``(name, depth, number of parameters)`` in depth order.
        estimate: GSNR of the same groups and the whole model.
        parameter_summary: Distribution of the per-parameter GSNR, for the same groups and the whole model.

    Returns:
        Rows with the columns of a GSNR report.
    """
    whole = (TOTAL, -1, sum(size for _, _, size in groups))
    rows = []
    for i, (name, depth, size) in enumerate([*groups, whole]):
        gsnr = float(estimate.gsnr[i])
        row: dict[str, Any] = {
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
            **parameter_summary[i],
        }
        row["status"], row["message"] = gsnr_status(row)
        rows.append(row)
    return rows


def gsnr_status(row: dict[str, Any]) -> tuple[str, str]:
    """Name the state of a GSNR row.

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
        how_many = f"about {needed:.3g} samples would be needed" if np.isfinite(needed) else "more samples may not help"
        return "no_signal", (
            f"no signal: with {row['num_samples']} samples the mean gradient cannot be told from noise; {how_many}"
        )
    return "ok", f"GSNR {row['gsnr']:.3g} [{row['gsnr_low']:.3g}, {row['gsnr_high']:.3g}]"


def add_cor(rows: list[dict[str, Any]], estimate: GroupCOR, rho: float, largest: float) -> None:
    """Complete GSNR rows with COR, its interval and its decomposition, in place.

    Args:
        rows: Rows of all groups and the whole model, in the estimate's order.
        estimate: COR of the same groups.
        rho: The SAM radius asked about.
        largest: Largest radius tried.
    """
    for i, row in enumerate(rows):
        row["status"], row["message"] = cor_status(row, float(estimate.cor[i]), largest)
        defined = row["status"] in ("ok", "above_max_radius")
        row["cor"] = float(estimate.cor[i]) if defined else float("nan")
        row["cor_low"] = float(estimate.low[i]) if row["status"] != "undefined" else float("nan")
        row["cor_high"] = float(estimate.high[i]) if row["status"] != "undefined" else float("nan")
        row["alignment_radius"] = float(estimate.alignment_radius[i]) if defined else float("nan")
        parts = decompose(np.array(row["cor"]), np.array(row["mean_grad_sqnorm"]), np.array(row["trace_covariance"]))
        row["signal_fraction"] = float(parts.signal_fraction)
        row["misspecification"] = float(parts.misspecification)
        row["grad_norm"] = float(parts.grad_norm)
        row["in_collapse_zone"] = bool((row["cor"] if defined else row["cor_high"]) < rho)
        if row["status"] == "ok":
            row["message"] = (
                f"descent certified up to rho = {row['cor']:.3g} [{row['cor_low']:.3g}, {row['cor_high']:.3g}]"
            )


def cor_status(row: dict[str, Any], cor: float, largest: float) -> tuple[str, str]:
    """Name the state of a COR row.

    Returns:
        ``"ok"``, ``"no_signal"``, ``"above_max_radius"`` or ``"undefined"``, and a sentence.
    """
    if row["status"] == "undefined":
        return row["status"], row["message"]
    if row["status"] == "no_signal" or np.isnan(cor):
        sentence = row["message"] if row["status"] == "no_signal" else "no signal: the mean gradient is not above zero"
        return "no_signal", f"{sentence}; COR cannot be told from 0"
    if np.isinf(cor):
        return "above_max_radius", (
            f"above the largest radius tried: descent is certified at rho = {largest:.3g}; pass larger radii to go on"
        )
    return "ok", ""


def drift_rows(names: list[str], grams: DriftGrams, estimate: GroupCOR, signal_sq: np.ndarray) -> list[dict[str, Any]]:
    """The drift curve, one row per group and radius.

    Returns:
        Rows with the columns group, rho, drift, drift_low, drift_high, grad_norm, alignment.
    """
    return [
        {
            "group": name,
            "rho": float(rho),
            "drift": float(estimate.drift[r, i]),
            "drift_low": float(estimate.drift_low[r, i]),
            "drift_high": float(estimate.drift_high[r, i]),
            "grad_norm": float(np.sqrt(max(signal_sq[i], 0.0))),
            "alignment": float(estimate.alignment[r, i]),
        }
        for i, name in enumerate(names)
        for r, rho in enumerate(grams.radii)
    ]


def to_frame(rows: list[dict[str, Any]], step: int) -> pd.DataFrame:
    """Rows as a DataFrame with the step in front.

    Returns:
        One frame row each; an empty frame for no rows.
    """
    import pandas as pd

    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    frame.insert(0, "step", step)
    return frame


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
