"""Marks and axes shared by the figures: intervals, collapse zone, and the fixed places of rows without a COR."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.path import Path as MarkerPath
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike

from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, ZONE_COLOR

if TYPE_CHECKING:
    import pandas as pd

FLOOR_STYLE: dict[str, Any] = {
    "color": OKABE_ITO["orange"], "linestyle": (0, (4, 2)), "linewidth": 0.9, "zorder": 1,
}  # fmt: skip
# an arrow that starts at its data point and points up
UP_ARROW = MarkerPath(
    [(0, 0), (0, 1), (-0.35, 0.55), (0, 1), (0.35, 0.55)],
    [MarkerPath.MOVETO, MarkerPath.LINETO, MarkerPath.MOVETO, MarkerPath.LINETO, MarkerPath.LINETO],
)
EDGE = 0.045  # axes fraction at which rows without a number are drawn
EDGE_BAND = 0.11  # axes fraction kept free of data for them
EDGE_MARKERS = {"no_signal": "o", "undefined": "s", "above_max_radius": "^"}
EDGE_LABELS = {
    "no_signal": "no signal: COR not above 0 (at edge)",
    "undefined": "undefined (at edge)",
    "above_max_radius": "COR above those tried (at edge)",
}
ARROW_LABEL = "above the largest radius tried, {:g}"


def log_limits(values: ArrayLike, *, edge_band: bool = False, pad: float = 0.08) -> tuple[float, float]:
    """Return limits of a log axis that show every positive finite value.

    Args:
        values: Everything that must be visible; values that a log axis cannot show are ignored.
        edge_band: Whether to keep the lowest tenth of the axis free, for marks at the edge.
        pad: Free margin at both ends, as a fraction of the span.

    Example:
        >>> low, high = log_limits([0.01, 1.0, float("nan"), -3.0])
        >>> low < 0.01 and high > 1.0
        True
    """
    array = np.asarray(values, dtype=float).ravel()
    array = array[np.isfinite(array) & (array > 0)]
    low, high = (np.log10(array.min()), np.log10(array.max())) if array.size else (-3.0, 0.0)
    if high - low < 0.5:
        low, high = low - 0.25, high + 0.25
    span = high - low
    low, high = low - pad * span, high + pad * span
    if edge_band:
        low -= (high - low) * EDGE_BAND / (1 - EDGE_BAND)
    return float(10**low), float(10**high)


def interval_bars(
    ax: Axes, x: ArrayLike, low: ArrayLike, high: ArrayLike, *, ceiling: float = np.inf, **style: Any
) -> LineCollection:
    """Draw vertical intervals, except those with a NaN end.

    Args:
        ax: Axes whose y limits are already set.
        x: Positions.
        low: Lower ends.
        high: Upper ends.
        ceiling: End of an interval whose upper end is infinite.
        **style: Passed to ``Axes.vlines``.

    Returns:
        The artist.
    """
    at, bottom, top = (np.asarray(values, dtype=np.float64) for values in (x, low, high))
    known = ~(np.isnan(bottom) | np.isnan(top))
    if ax.get_yscale() == "log":
        bottom = np.maximum(bottom, ax.get_ylim()[0] / 10)
    bottom = np.where(np.isneginf(bottom), ax.get_ylim()[0], bottom)
    top = np.where(np.isposinf(top), ceiling, top)
    return ax.vlines(at[known], bottom[known], top[known], **{"linewidth": 0.9, **style})


def line_with_band(
    ax: Axes, x: ArrayLike, y: ArrayLike, ends: tuple[ArrayLike, ArrayLike] | None, *, name: str, color: Any,
    **style: Any,
) -> Line2D:  # fmt: skip
    """Draw a line, called `name` in its ``gid``, and the band between the `ends` of its intervals, if any."""
    if ends is not None:
        # A log axis has no place for an end of 0 or below, and infinite ends would spoil the polygon.
        floor = ax.get_ylim()[0] if ax.get_yscale() == "log" else -np.inf
        low, high = np.maximum(ends[0], floor), np.minimum(ends[1], ax.get_ylim()[1])
        ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0, zorder=2, gid=f"band:{name}")
    return ax.plot(x, y, color=color, gid=name, **style)[0]


def cor_axis(
    ax: Axes, rows: "pd.DataFrame", rho: float, *, ceiling: float = np.nan, edge_band: bool, reach: float = 10.0
) -> None:
    """Set a log axis for COR, with the collapse zone below `rho`.

    Args:
        ax: Axes.
        rows: ``cor``, ``cor_low``, ``cor_high`` and ``status`` of everything on the axes.
        rho: SAM radius in question.
        ceiling: A radius that must be visible, with room for an arrow above it; NaN for none.
        edge_band: Whether rows without a COR are drawn in a strip at the lower edge.
        reach: Factor below the smallest COR at which an interval is cut off, lest one wide interval set the axis.
    """
    rows = rows[(rows["status"] == "ok") & np.isfinite(rows["cor"])]
    cor, low, high = (rows[name].to_numpy(dtype=float) for name in ("cor", "cor_low", "cor_high"))
    lowest = min(cor[cor > 0], default=rho) / reach
    ax.set_yscale("log")
    shown = [*cor, *np.maximum(low, lowest), *high, rho / 1.6, rho * 1.6, 2.2 * ceiling]
    ax.set_ylim(log_limits(shown, edge_band=edge_band))
    tidy_log_axis(ax)
    collapse_zone(ax, rho)
    if edge_band:
        _edge_strip(ax)


def collapse_zone(ax: Axes, rho: float) -> None:
    """Shade the zone ``COR < rho``, from the lower end of the axis up to `rho`."""
    zone = ax.axhspan(ax.get_ylim()[0], rho, color=ZONE_COLOR, alpha=0.13, linewidth=0, zorder=0)
    zone.set_label(rf"collapse zone: COR < $\rho$ = {rho:g}")
    ax.axhline(rho, color=ZONE_COLOR, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)


def _edge_strip(ax: Axes) -> None:
    """Draw a white strip at the lower edge, over the zone: rows without a COR are undecided, not in the zone."""
    strip = Rectangle(
        (0, 0), 1, 2 * EDGE, transform=ax.transAxes, facecolor="white", edgecolor="none", zorder=0.5, gid="edge_strip"
    )  # fmt: skip
    ax.add_artist(strip)
    ax.plot([0, 1], [2 * EDGE] * 2, transform=ax.transAxes, color=MUTED, linewidth=0.4, alpha=0.6, zorder=0.6)


def edge_markers(
    ax: Axes, x: ArrayLike, status: str, *, colors: Any = MUTED, label: str | None = None
) -> PathCollection:
    """Draw rows without a number as hollow marks at the lower edge; their y is in axes fractions.

    Args:
        ax: Axes.
        x: Positions along x, in data units.
        status: Status other than ``ok``: sets the shape and the default label.
        colors: One edge colour, or one per mark.
        label: Legend text; None for that of the status.

    Returns:
        The artist.
    """
    return ax.scatter(
        x, np.full(np.shape(x), EDGE), transform=ax.get_xaxis_transform(), marker=EDGE_MARKERS[status], s=13,
        facecolors="white", edgecolors=colors, linewidths=0.8, zorder=5, gid=f"edge:{status}",
        label=EDGE_LABELS[status] if label is None else label,
    )  # fmt: skip


def up_arrows(ax: Axes, x: ArrayLike, height: float, *, colors: Any = MUTED) -> PathCollection:
    """Draw arrows for rows whose radius lies above the largest one tried; they start at that radius."""
    return ax.scatter(
        x, np.full(np.shape(x), height), marker=UP_ARROW, s=130, facecolors="none", edgecolors=colors, linewidths=1.0,
        zorder=4, label=ARROW_LABEL.format(height), gid="above_max_radius",
    )  # fmt: skip


def gsnr_axis(ax: Axes, values: ArrayLike, floor: float) -> None:
    """Set the scale for GSNR: log, or symmetric log if a value is not positive.

    The symmetric log axis is linear within one noise floor of zero, so that a negative estimate (no signal above the
    floor) stays visible, below the zero line.

    Args:
        ax: Axes.
        values: Every estimate and finite interval end to be shown.
        floor: Noise floor ``1/n``.
    """
    array = np.asarray(values, dtype=float).ravel()
    array = array[np.isfinite(array)]
    if array.size == 0 or array.min() > 0:
        ax.set_yscale("log")
        ax.set_ylim(*log_limits([*array, floor]))
        tidy_log_axis(ax)
        return
    ax.set_yscale("symlog", linthresh=floor, linscale=0.6)
    ax.set_ylim(min(1.6 * array.min(), -floor), max(2.5 * array.max(), 3 * floor))
    ax.axhline(0, color=MUTED, linewidth=0.5, zorder=1)
    ax.yaxis.set_minor_formatter(NullFormatter())
    _symlog_ticks(ax, floor)


def noise_floor_line(ax: Axes, floor: float) -> None:
    """Draw and label the noise floor ``1/n``."""
    ax.axhline(floor, label=f"noise floor 1/n = {floor:.2g}", **FLOOR_STYLE)


def _symlog_ticks(ax: Axes, floor: float) -> None:
    """Set about seven ticks: 0, and powers of ten outside the linear part."""
    low, high = ax.get_ylim()
    first = int(np.ceil(np.log10(floor)))
    last = int(np.floor(np.log10(high))) if high > 0 else first
    stride = max(1, int(np.ceil((last - first + 1) / 5)))
    ticks = [0.0, *(10.0**k for k in range(first, last + 1, stride))]
    lowest = int(np.floor(np.log10(-low))) if low < 0 else first - 1
    ticks += [-(10.0**k) for k in range(first, lowest + 1, max(stride, 1 + (lowest - first) // 2))]
    ax.set_yticks(sorted(ticks))


def tidy_log_axis(ax: Axes, which: str = "y") -> None:
    """Label powers of ten; on a short axis also 2 and 5 times them, in plain decimals."""
    axis = ax.yaxis if which == "y" else ax.xaxis
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    if decades < 2.2:
        subs: Sequence[float] = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0)
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axis.set_major_locator(LogLocator(numticks=7))
    axis.set_minor_formatter(NullFormatter())


def status_proxy(status: str) -> Line2D:
    """Return a legend entry, in no group's colour, for a status with a mark at the edge."""
    return Line2D(
        [], [], linestyle="none", marker=EDGE_MARKERS[status], markersize=3.8, markerfacecolor="white",
        markeredgecolor=MUTED, markeredgewidth=0.8, label=EDGE_LABELS[status],
    )  # fmt: skip


def legend_proxy(handle: Any) -> Any:
    """Return the handle for the legend; an arrow is centred there, not drawn from its point upwards."""
    if not str(getattr(handle, "get_gid", str)()).startswith("above_max_radius"):
        return handle
    centred = MarkerPath(UP_ARROW.vertices - np.array([0.0, 0.5]), UP_ARROW.codes)
    return Line2D(
        [], [], linestyle="none", marker=centred, markersize=7, markerfacecolor="none", markeredgecolor=MUTED,
        markeredgewidth=1.0, label=handle.get_label(),
    )  # fmt: skip


def diamond_style(color: Any, *, main: bool) -> dict[str, Any]:
    """Return the style of a bottleneck diamond: large and edged for the bottleneck group, small for the others."""
    return {
        "marker": "D",
        "markersize": 5.5 if main else 3.8,
        "markerfacecolor": color,
        "markeredgecolor": OKABE_ITO["black"] if main else "white",
        "markeredgewidth": 0.9 if main else 0.5,
        "linestyle": "none",
        "zorder": 7 if main else 6,
    }
