"""Test AUC against the SAM radius: where training collapses, and the COR of the runs without SAM as a diamond."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from gsnr_toolkit.report.plots.labels import axes_width, legend_below
from gsnr_toolkit.report.plots.marks import diamond_style
from gsnr_toolkit.report.plots.style import (
    COLUMN_WIDTH,
    MUTED,
    RC,
    TEXT_WIDTH,
    ZONE_COLOR,
    axes_or_new,
    depth_colors,
    dress,
    in_paper_style,
    new_figure,
)
from gsnr_toolkit.sweeps.collapse import collapse_radii
from gsnr_toolkit.sweeps.over_seeds import average_over_seeds, plain_cor, rows_of, setting_columns, usable_runs

if TYPE_CHECKING:
    import pandas as pd

ZERO_GAP = 0.55  # decades from the smallest radius down to the place of rho = 0
MARGIN = 0.14  # decades beside the outermost marks
CHANCE_LEVEL = 0.5
LOWEST_AUC = 0.4
BRACKET_FLOOR = 0.03  # axes fraction of the lowest collapse bracket
BRACKET_STEP = 0.032
SEEDS_ASIDE = 10**0.018  # factor on x: the interval of the mean would hide the seeds


@dataclass(frozen=True)
class Curve:
    """One setting on the axes.

    Attributes:
        name: Label.
        color: Colour.
        shift: Factor on x that keeps settings apart.
        mean: AUC over seeds by radius.
        runs: All runs.
        collapse: Row of :func:`collapse_radii`.
        cor: COR of the runs at rho = 0 with its interval; None without one.
    """

    name: str
    color: Any
    shift: float
    mean: "pd.DataFrame"
    runs: "pd.DataFrame"
    collapse: dict[str, Any]
    cor: tuple[float, float, float] | None


@in_paper_style
def plot_auc_radius(
    table: "pd.DataFrame",
    *,
    rho: float | None = 0.05,
    title: str = "AUC against the SAM radius",
    note: bool = True,
    legend: bool = True,
    names: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw test AUC against rho, a line per setting: mean over seeds with its interval, seeds as dots.

    rho = 0 is drawn left of a break in the logarithmic axis. The diamond on a curve is the COR of the runs without SAM:
    the median over seeds; its bar covers the intervals of all seeds. The bar at the foot is the bracket of the
    empirical collapse radius, with a tick at the radius. The red zone begins at the smallest collapse radius of any
    setting.

    Args:
        table: Table of a sweep.
        rho: A radius to mark, such as the usual one; None marks none.
        title: Title.
        note: Whether to write seeds, images and interval level above the axes.
        legend: Whether to draw a legend below the axes.
        names: Data sets whose colours are assigned first, so that colours agree in all panels of a figure.
        ax: Axes to draw on; None creates a figure.

    Returns:
        The axes; each setting's line carries its name as ``gid``.

    Raises:
        ValueError: A column is missing, or no run at a fixed radius has ended.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"data": "demo-nt", "rho": [0.0, 0.01, 0.1], "seed": 0, "status": "ok",
        ...     "train_loss": [0.2, 0.3, 0.693], "test_auc": [0.9, 0.8, 0.5], "num_test": 800,
        ...     "test_auc_low": [0.88, 0.77, 0.48], "test_auc_high": [0.92, 0.83, 0.52]})
        >>> ax = plot_auc_radius(table)
        >>> [line.get_ydata().tolist() for line in ax.get_lines() if line.get_gid() == "demo-nt"]
        [[0.8, 0.5]]
    """
    curves = _find_curves(table, names)
    ax = axes_or_new(ax, COLUMN_WIDTH, 3.1)
    zero = _set_axes(ax, curves, rho)
    for index, curve in enumerate(curves):
        _draw_curve(ax, curve, zero)
        _draw_bracket(ax, curve, zero, BRACKET_FLOOR + BRACKET_STEP * index)
    for curve in curves:
        _draw_cor(ax, curve, zero)
    _name_marks(ax)
    _draw_zone(ax, curves)
    ax.axhline(CHANCE_LEVEL, color=MUTED, linewidth=0.8, linestyle=(0, (1, 1.2)), zorder=1, label="chance")
    if rho is not None and ax.get_xlim()[0] < rho < ax.get_xlim()[1]:
        ax.axvline(rho, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1, label=f"ρ = {rho:g}")
    dress(ax, title=title, note=describe_runs(table) if note else "")
    ax.tick_params(axis="x", which="minor", length=0)
    if legend:
        legend_below(ax)
    return ax


def _find_curves(table: "pd.DataFrame", names: Sequence[str]) -> list[Curve]:
    """Split a table into one curve per setting, labelled by the options in which the settings differ."""
    by = setting_columns(table)
    runs, means, radii = usable_runs(table), average_over_seeds(table), collapse_radii(table)
    if runs.empty:
        raise ValueError("expected ended runs at a fixed radius, got none; resume the sweep first")
    told = [name for name in by if name == "data" or table[name].nunique(dropna=False) > 1]
    found = [(_name(row, told), row) for row in radii.to_dict("records") if row["num_runs"]]
    labels = list(dict.fromkeys([*names, *(name for name, _ in found)]))
    colors = depth_colors(labels)
    shifts = 10 ** (0.012 * (np.arange(len(found)) - (len(found) - 1) / 2))
    curves = []
    for (name, row), shift in zip(found, shifts, strict=True):
        at = {column: row[column] for column in by}
        own = rows_of(runs, at)
        curves.append(Curve(name, colors[name], float(shift), rows_of(means, at), own, row, plain_cor(own)))
    return curves


def _name(row: dict[str, Any], told: list[str]) -> str:
    parts = [str(row[name]) if name in ("data", "model") else f"{name} {short_value(row[name])}" for name in told]
    return ", ".join(parts) or "all runs"


def short_value(value: Any) -> str:
    """Return a setting's value for a label."""
    if value is None or value != value:
        return "default"
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe_runs(table: "pd.DataFrame") -> str:
    """Return the number of seeds and test images in words, and whether all data are embedded."""
    runs = usable_runs(table)
    count = runs["seed"].nunique()
    parts = [f"{count} seed{'s' if count > 1 else ''}"]
    if "num_test" in runs:
        low, high = int(runs["num_test"].min()), int(runs["num_test"].max())
        parts.append(f"n = {low if low == high else f'{low}–{high}'} test images")
    parts.append("95 % intervals")
    if "data" in runs and runs["data"].astype(str).str.startswith("demo-").all():
        parts.append("embedded data")
    return ", ".join(parts)


def _set_axes(ax: Axes, curves: list[Curve], rho: float | None) -> float:
    """Set limits and ticks; return the x of rho = 0."""
    radii = sorted({float(value) for curve in curves for value in curve.mean["rho"] if value > 0})
    cors = [curve.cor[0] for curve in curves if curve.cor and 0 < curve.cor[0] < np.inf]
    outer = [*radii, *cors] or [rho or 0.05]
    has_zero = any((curve.mean["rho"] == 0).any() for curve in curves)
    zero = min(outer) / 10**ZERO_GAP
    ax.set_xscale("log")
    ax.set_xlim((zero if has_zero else min(outer)) / 10**MARGIN, max(outer) * 10**MARGIN)
    _label_radii(ax, radii, zero if has_zero else None)
    lowest = min(float(curve.mean["auc_low"].min()) for curve in curves)
    lowest = min(lowest, *(float(curve.runs["test_auc"].min()) for curve in curves))
    foot = (BRACKET_FLOOR + BRACKET_STEP * len(curves)) / 0.95
    bottom = min(LOWEST_AUC, lowest - 0.02)
    ax.set_ylim((bottom - foot * 1.02) / (1 - foot), 1.02)
    ax.set_yticks([tick for tick in np.arange(0, 1.01, 0.1) if tick >= bottom])
    ax.set_xlabel(r"SAM radius $\rho$")
    ax.set_ylabel("test AUC")
    return zero


def _label_radii(ax: Axes, radii: list[float], zero: float | None) -> None:
    """Label the radii of the grid, except where labels would touch, and draw the break after 0."""
    low, high = np.log10(ax.get_xlim())
    points = 0.85 * axes_width(ax) / (high - low)
    size = 0.62 * float(RC["xtick.labelsize"])
    ticks, labels, free = ([], [], -np.inf) if zero is None else ([zero], ["0"], np.log10(zero) * points + 1.5 * size)
    for radius in radii:
        text = f"{radius:g}"
        half = size * len(text) / 2
        if np.log10(radius) * points - half >= free:
            ticks.append(radius)
            labels.append(text)
            free = np.log10(radius) * points + half + 0.4 * size
    ax.set_xticks(ticks, labels)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    if zero is None:
        return
    for side in (-0.025, 0.025):
        ax.plot(
            [zero * 10 ** (ZERO_GAP / 2 + side)], [0], transform=ax.get_xaxis_transform(), clip_on=False,
            linestyle="none", marker=[(-0.5, -1), (0.5, 1)], markersize=7, color="black", markeredgewidth=0.6,
            gid="axis_break",
        )  # fmt: skip


def _draw_zone(ax: Axes, curves: list[Curve]) -> None:
    """Shade from the smallest empirical collapse radius to the end of the axis."""
    known = [float(curve.collapse["empirical_radius"]) for curve in curves]
    start = min((radius for radius in known if np.isfinite(radius)), default=None)
    if start is not None:
        zone = ax.axvspan(start, ax.get_xlim()[1], color=ZONE_COLOR, alpha=0.11, linewidth=0, zorder=0, gid="zone")
        zone.set_label("from the smallest collapse radius on")


def _draw_curve(ax: Axes, curve: Curve, zero: float) -> None:
    """Draw the mean with its intervals, and the seeds; the line is dotted across the break."""
    radius = curve.mean["rho"].to_numpy(dtype=float)
    x = np.where(radius > 0, radius, zero) * curve.shift
    mean, low, high = (curve.mean[name].to_numpy(dtype=float) for name in ("auc", "auc_low", "auc_high"))
    style = {"color": curve.color, "zorder": 4}
    if radius[0] == 0:
        ax.plot(x[:2], mean[:2], linestyle=(0, (1, 1.6)), linewidth=0.9, gid=f"break:{curve.name}", **style)
        ax.plot(x[:1], mean[:1], linestyle="none", marker="o", markersize=3.4, gid=f"zero:{curve.name}", **style)
    on = radius > 0
    ax.plot(x[on], mean[on], marker="o", markersize=3.4, gid=curve.name, label=curve.name, **style)
    ax.vlines(x, low, high, color=curve.color, linewidth=0.8, alpha=0.8, zorder=3, gid=f"interval:{curve.name}")
    if curve.runs["seed"].nunique() > 1:
        at = curve.runs["rho"].to_numpy(dtype=float)
        x = np.where(at > 0, at, zero) * curve.shift * SEEDS_ASIDE
        dots = ax.scatter(x, curve.runs["test_auc"], s=6, color=curve.color, alpha=0.45, linewidths=0, zorder=3)
        dots.set_gid(f"seeds:{curve.name}")


def _draw_bracket(ax: Axes, curve: Curve, zero: float, height: float) -> None:
    """Draw the bracket of the collapse radius at the foot of the axes; an infinite end is an arrow."""
    radius, low, high = (float(curve.collapse[f"empirical_{name}"]) for name in ("radius", "low", "high"))
    if not np.isfinite(radius):
        return
    end = ax.get_xlim()[1]
    style = {"color": curve.color, "transform": ax.get_xaxis_transform(), "zorder": 5, "clip_on": True}
    ax.plot(
        [max(low, zero), min(high, end)], [height] * 2, linewidth=2.2, solid_capstyle="butt",
        gid=f"bracket:{curve.name}", **style,
    )  # fmt: skip
    ax.plot([radius], [height], linestyle="none", marker="|", markersize=6, markeredgewidth=1.4, **style)
    if np.isinf(high):
        ax.plot([end / 10**0.02], [height], linestyle="none", marker=">", markersize=4, **style)


def _draw_cor(ax: Axes, curve: Curve, zero: float) -> None:
    """Draw COR as a diamond on the curve; hollow if COR lies beyond the end of the curve."""
    if curve.cor is None:
        return
    cor, low, high = curve.cor
    radius = curve.mean["rho"].to_numpy(dtype=float)
    x = np.log10(np.where(radius > 0, radius, zero))
    left, right = ax.get_xlim()
    at = min(cor, right / 10 ** (MARGIN / 3))
    y = float(np.interp(np.log10(at), x, curve.mean["auc"].to_numpy(dtype=float)))
    ends = np.clip([low, high], left, right)
    ax.plot(ends, [y, y], color=curve.color, linewidth=0.9, zorder=5, gid=f"cor_interval:{curve.name}")
    style = diamond_style(curve.color, main=True)
    if np.log10(cor) > x[-1]:
        style["markerfacecolor"] = "white"
    ax.plot([at], [y], gid=f"cor:{curve.name}", clip_on=False, **style)


def _name_marks(ax: Axes) -> None:
    """Add a grey legend entry for each kind of mark on the axes."""
    lines = [(str(line.get_gid()).partition(":")[0], line) for line in ax.get_lines()]
    diamonds = [line for kind, line in lines if kind == "cor"]
    if diamonds:
        ax.plot([], [], label="COR at ρ = 0 (bar: interval)", **diamond_style(MUTED, main=True))
    if any(line.get_markerfacecolor() == "white" for line in diamonds):
        hollow = {**diamond_style(MUTED, main=True), "markerfacecolor": "white"}
        ax.plot([], [], label="COR above the radii tried", **hollow)
    if any(kind == "bracket" for kind, _ in lines):
        ax.plot([], [], color=MUTED, linewidth=2.2, marker="|", markersize=6, label="collapse radius (bar: bracket)")


MOST_COLUMNS = 3
PANEL_HEIGHT = 2.2  # inches
LEGEND_HEIGHT = 0.7


def panel_settings(table: "pd.DataFrame") -> tuple[list[dict[str, Any]], list[str]]:
    """Return the combinations of settings, other than the data set, that vary, and the names of the data sets."""
    runs = usable_runs(table)
    names = [name for name in setting_columns(table) if name != "data" and runs[name].nunique(dropna=False) > 1]
    keys = [key for key, _ in runs.groupby(names, dropna=False, sort=False)] if names else []
    data = [str(name) for name in dict.fromkeys(runs["data"])] if "data" in runs else []
    return [dict(zip(names, key, strict=True)) for key in keys], data


@in_paper_style
def plot_sweep(table: "pd.DataFrame", *, rho: float | None = 0.05) -> Figure:
    """Draw a sweep: data sets as colours, and a panel for every combination of the other settings that vary.

    Args:
        table: Table of a sweep.
        rho: A radius to mark; None marks none.

    Returns:
        The figure.

    Raises:
        ValueError: A column is missing, or no run at a fixed radius has ended.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"data": "demo-nt", "tuning": ["full", "head"] * 2, "rho": [0.0, 0.0, 0.1, 0.1],
        ...     "seed": 0, "status": "ok", "train_loss": 0.3, "test_auc": 0.9, "test_auc_low": 0.88,
        ...     "test_auc_high": 0.92})
        >>> [ax.get_title("left") for ax in plot_sweep(table).axes]
        ['tuning full', 'tuning head']
    """
    runs = usable_runs(table)
    panels, labels = panel_settings(table)
    if not panels:
        figure = new_figure(1.4 * COLUMN_WIDTH, 3.4)
        plot_auc_radius(table, rho=rho, ax=figure.add_subplot())
        return figure
    columns = 2 if len(panels) == 4 else min(MOST_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(TEXT_WIDTH, PANEL_HEIGHT * rows + LEGEND_HEIGHT)
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax, at in zip(grid.flat, panels, strict=False):
        title = ", ".join(f"{name} {short_value(value)}" for name, value in at.items())
        plot_auc_radius(rows_of(runs, at), rho=rho, title=title, note=False, legend=False, names=labels, ax=ax)
    for ax in grid.flat[len(panels) :]:
        ax.set_axis_off()
    figure.suptitle(describe_runs(table), fontsize=RC["legend.fontsize"], color=MUTED, x=0.01, ha="left")
    named = {name: handle for ax in grid.flat for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = list(dict.fromkeys([*(name for name in labels if name in named), *named]))
    figure.legend([named[name] for name in order], order, loc="outside lower left", ncols=MOST_COLUMNS)
    return figure
