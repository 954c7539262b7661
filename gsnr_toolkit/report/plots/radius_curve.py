"""The drift curve: how far a SAM perturbation turns the gradient of each layer, and where it outweighs the signal."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gsnr_toolkit.report.plots.frames import (
    Settings,
    default_step,
    ordered_groups,
    read_setting,
    require_columns,
    sample_note,
)
from gsnr_toolkit.report.plots.labels import full_name, legend_below
from gsnr_toolkit.report.plots.marks import line_with_band, log_limits, tidy_log_axis
from gsnr_toolkit.report.plots.style import (
    COLUMN_WIDTH,
    MANY_GROUPS,
    MUTED,
    TOTAL_COLOR,
    ZONE_COLOR,
    axes_or_new,
    depth_colors,
    dress,
    in_paper_style,
)
from gsnr_toolkit.report.plots.trajectory import TOTAL, TOTAL_DASHES, add_depth_key

if TYPE_CHECKING:
    import pandas as pd

DRIFT_COLUMNS = ("step", "group", "rho", "drift", "drift_low", "drift_high", "grad_norm")
COR_COLUMNS = ("step", "group", "depth", "cor", "cor_low", "cor_high", "status")
DOTS: Any = (0, (1, 1.2))
SILENT_LABEL = "no signal: crossing uncertain"
FLOOR_IN_DECADES = 2.0  # how far below the crossing the picture reaches


@in_paper_style
def plot_radius_curve(
    drift: "pd.DataFrame",
    layers: "pd.DataFrame",
    settings: Settings,
    *,
    step: int | None = None,
    totals: "pd.DataFrame | None" = None,
    depth_key: bool = True,
    note: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw ``|Delta(rho)| / |mu|`` against rho; the first crossing of 1 is the COR.

    The drift of each group is divided by the gradient norm of that group, so that one line at 1 serves all groups. A
    band is the interval of the drift. The interval of COR also includes the uncertainty of ``|mu|``; it is the bar at
    the crossing of the whole model. With more than six groups only the whole model gets a band. A group without signal
    has a dotted curve and no COR mark. A group whose estimated ``|mu|`` is not above zero has no finite ratio; it is a
    hollow circle at the upper edge. A curve has a gap where noise exceeds the debiased drift (``drift`` 0).

    Args:
        drift: ``report.drift``, one row per (step, group, rho); the whole model is the group ``total``.
        layers: ``report.layers``: depth order, COR and status.
        settings: ``report.settings``; needs ``rho`` and ``confidence``.
        step: Training step; None for the step of the lowest COR.
        totals: ``report.totals``: COR of the whole model; None marks no crossing for it.
        depth_key: Whether to add a colour bar for many groups.
        note: Whether to write n and interval level above the axes.
        ax: Axes to draw on; None creates a figure.

    Returns:
        The axes; each group's line carries its name as ``gid``.

    Raises:
        ValueError: A column is missing, or the step was not measured.

    Example:
        >>> import pandas as pd
        >>> drift = pd.DataFrame({"step": 0, "group": "head", "rho": [0.01, 0.1], "drift": [0.1, 1.0],
        ...     "drift_low": [0.08, 0.9], "drift_high": [0.12, 1.1], "grad_norm": 0.5})
        >>> layers = pd.DataFrame({"step": [0], "group": "head", "depth": 0, "num_samples": 64, "cor": 0.05,
        ...     "cor_low": 0.03, "cor_high": 0.08, "status": "ok"})
        >>> ax = plot_radius_curve(drift, layers, {"rho": 0.05, "confidence": 0.95})
        >>> [line.get_ydata().tolist() for line in ax.get_lines() if line.get_gid() == "head"]
        [[0.2, 2.0]]
    """
    require_columns(drift, DRIFT_COLUMNS, "plot_radius_curve (drift)")
    require_columns(layers, COR_COLUMNS, "plot_radius_curve (layers)")
    step = _default_step(drift, layers) if step is None else step
    rows = drift[drift["step"] == step]
    if rows.empty:
        measured = ", ".join(str(found) for found in sorted(set(drift["step"])))
        raise ValueError(f"expected a step with a drift curve, {measured}, got {step}; pass step=None for the default")
    ax = axes_or_new(ax, COLUMN_WIDTH, 2.9)
    known, present = ordered_groups(layers), set(rows["group"])
    groups = [group for group in known if group in present] + sorted(present - {*known, TOTAL})
    names = groups + ([TOTAL] if TOTAL in present else [])
    colors = {**depth_colors(groups), TOTAL: TOTAL_COLOR}
    banded = set(names) if len(groups) <= MANY_GROUPS else {TOTAL}
    curves = {name: rows[rows["group"] == name].sort_values("rho") for name in names}
    _set_axes(ax, curves, float(read_setting(settings, "rho")))
    crossings = _rows_with_total(layers, totals, step)
    silent = {name for table in crossings for name in table.loc[table["status"] == "no_signal", "group"]}
    for name, curve in curves.items():
        _draw_curve(ax, name, curve, colors[name], band=name in banded, silent=name in silent)
    _draw_unbounded(ax, curves, colors)
    for table in crossings:
        _draw_crossings(ax, table[table["group"].isin(names)], colors)
    ax.set_xlabel(r"SAM radius $\rho$")
    ax.set_ylabel(r"drift $|\Delta(\rho)|\;/\;|\mu|$")
    dress(ax, title=f"Drift curve, step {step}", note=sample_note(layers, settings) if note else "")
    if len(groups) > MANY_GROUPS and depth_key:
        add_depth_key(ax, groups)
    _legend(ax, groups, names, colors)
    return ax


def _default_step(drift: "pd.DataFrame", layers: "pd.DataFrame") -> int:
    """Return the step of the lowest COR, or the last step with a curve if that step has none."""
    step = default_step(layers)
    return step if (drift["step"] == step).any() else int(drift["step"].max())


def _rows_with_total(layers: "pd.DataFrame", totals: "pd.DataFrame | None", step: int) -> "list[pd.DataFrame]":
    """Return the tables of one step that say where curves cross."""
    tables = [layers[layers["step"] == step]]
    return tables if totals is None else [*tables, totals[totals["step"] == step].assign(group=TOTAL)]


def _ratio(curve: "pd.DataFrame", column: str) -> np.ndarray:
    norm = curve["grad_norm"].to_numpy(dtype=float)
    return curve[column].to_numpy(dtype=float) / np.where(norm > 0, norm, np.nan)


def _drawn_ratio(curve: "pd.DataFrame") -> np.ndarray:
    """Return the ratios of a curve, NaN where a log axis cannot show them: the debiased drift is not above zero."""
    ratio = _ratio(curve, "drift")
    return np.where(ratio > 0, ratio, np.nan)


def _alone(values: np.ndarray) -> list[int]:
    """Return the indices of finite values between two gaps, which need a marker since no line reaches them."""
    known = np.r_[False, np.isfinite(values), False]
    return np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:]).tolist()


def _set_axes(ax: Axes, curves: "dict[str, pd.DataFrame]", rho: float) -> None:
    """Set log axes around the crossing; draw the line at 1, and the zone in which a crossing means collapse."""
    ratios = np.concatenate([_drawn_ratio(curve) for curve in curves.values()])
    radii = np.concatenate([curve["rho"].to_numpy(dtype=float) for curve in curves.values()])
    finite = ratios[np.isfinite(ratios)]
    low = max(finite.min() if finite.size else 0.1, 10**-FLOOR_IN_DECADES)
    high = min(finite.max() if finite.size else 10.0, 10**FLOOR_IN_DECADES)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(log_limits([*radii, rho], pad=0.03))
    ax.set_ylim(log_limits([low, max(high, 3.0), 1.0]))
    tidy_log_axis(ax, "x")
    tidy_log_axis(ax, "y")
    zone = ax.axvspan(ax.get_xlim()[0], rho, color=ZONE_COLOR, alpha=0.13, linewidth=0, zorder=0)
    zone.set_label(rf"crossing here: COR < $\rho$ = {rho:g}")
    ax.axvline(rho, color=ZONE_COLOR, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)
    ax.axhline(1.0, color=MUTED, linewidth=0.8, zorder=1, label=r"drift = $|\mu|$", gid="crossing_level")


def _draw_curve(ax: Axes, name: str, curve: "pd.DataFrame", color: Any, *, band: bool, silent: bool) -> None:
    """Draw one curve, dotted if the gradient norm in its denominator may be zero."""
    total = name == TOTAL
    if not np.isfinite(_ratio(curve, "drift")).any():
        return
    ratio, width = _drawn_ratio(curve), 1.5 if total else 0.9
    line = line_with_band(
        ax, curve["rho"], ratio, (_ratio(curve, "drift_low"), _ratio(curve, "drift_high")) if band else None,
        name=name, color=color, linewidth=width, linestyle=DOTS if silent else TOTAL_DASHES if total else "-",
        zorder=4 if total else 3, marker="o", markersize=1.5 * width, markevery=_alone(ratio),
    )  # fmt: skip
    line.set_label(SILENT_LABEL if silent else "_curve")


def _draw_unbounded(ax: Axes, curves: "dict[str, pd.DataFrame]", colors: dict[str, Any]) -> None:
    """Mark groups whose gradient norm is not above zero: their ratio has no finite value."""
    names = [name for name, curve in curves.items() if not np.isfinite(_ratio(curve, "drift")).any()]
    if not names:
        return
    x = 0.04 + min(0.03, 0.92 / len(names)) * np.arange(len(names))
    ax.scatter(
        x, np.full(len(names), 0.96), transform=ax.transAxes, marker="o", s=13, facecolors="white",
        edgecolors=[colors[name] for name in names], linewidths=0.9, zorder=6,
        gid="unbounded:" + ",".join(names),
        label=rf"$|\mu|$ not above 0 ({_abbreviate(names)})",
    )  # fmt: skip


def _abbreviate(names: list[str]) -> str:
    return ", ".join(names) if sum(map(len, names)) <= 20 else f"{len(names)} groups"


def _draw_crossings(ax: Axes, table: "pd.DataFrame", colors: dict[str, Any]) -> None:
    """Draw each COR as a dot on the line at 1, and the interval of the whole model as a horizontal bar."""
    table = table[table["status"] == "ok"]
    cor, low, high = (table[name].to_numpy(dtype=np.float64) for name in ("cor", "cor_low", "cor_high"))
    for index, name in enumerate(table["group"]):
        total = name == TOTAL
        ax.plot(
            [cor[index]], [1.0], marker="o", markersize=5 if total else 3.4, color=colors[name],
            markeredgecolor="white", markeredgewidth=0.5, linestyle="none", zorder=7 if total else 5,
            gid=f"cor:{name}",
        )  # fmt: skip
        if total and not np.isnan([low[index], high[index]]).any():
            start, end = np.clip([low[index], high[index]], *ax.get_xlim())
            ax.hlines(1.0, start, end, color=TOTAL_COLOR, linewidth=2.0, zorder=6, gid="cor_interval:total")


def _legend(ax: Axes, groups: list[str], names: list[str], colors: dict[str, Any]) -> None:
    handles: list[Any] = []
    if len(groups) <= MANY_GROUPS:
        handles += [Line2D([], [], color=colors[group], label=full_name(group)) for group in groups]
    if TOTAL in names:
        handles.append(Line2D([], [], color=TOTAL_COLOR, linestyle=TOTAL_DASHES, linewidth=1.5, label="whole model"))
    dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4}
    handles.append(Line2D([], [], color=MUTED, label="COR (bar: its interval)", **dot))
    if any(line.get_label() == SILENT_LABEL for line in ax.get_lines()):
        handles.append(Line2D([], [], color=MUTED, linestyle=DOTS, label=SILENT_LABEL))
    handles += [handle for handle in ax.get_legend_handles_labels()[0] if handle.get_label() != SILENT_LABEL]
    legend_below(ax, handles)
