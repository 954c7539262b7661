"""GSNR or COR over training steps, a line per layer, the bottleneck step marked by a diamond."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gsnr_toolkit.report.plots.frames import (
    BottleneckLike,
    Settings,
    find_bottleneck,
    largest_radius,
    ordered_groups,
    read_setting,
    require_columns,
    sample_note,
)
from gsnr_toolkit.report.plots.labels import (
    axis_title,
    full_name,
    is_upright,
    legend_below,
    short_label,
    sparse_positions,
)
from gsnr_toolkit.report.plots.marks import (
    cor_axis,
    diamond_style,
    edge_markers,
    gsnr_axis,
    line_with_band,
    noise_floor_line,
    status_proxy,
    up_arrows,
)
from gsnr_toolkit.report.plots.style import (
    COLUMN_WIDTH,
    MANY_GROUPS,
    MUTED,
    RC,
    TOTAL_COLOR,
    axes_or_new,
    depth_colors,
    dress,
    in_paper_style,
    root_figure,
)

NAMES = {"cor": "critical radius (COR)", "gsnr": "GSNR"}
TOTAL = "total"
TOTAL_DASHES = (0, (5, 1.5))


@in_paper_style
def plot_trajectory(
    layers: pd.DataFrame,
    settings: Settings,
    *,
    quantity: str = "cor",
    totals: pd.DataFrame | None = None,
    bottleneck: BottleneckLike | None = None,
    depth_key: bool = True,
    note: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw COR or GSNR over steps by layer, with interval bands and the bottleneck step as diamonds.

    With more than six groups, colour means depth (dark: input, light: output), and only the bottleneck group and the
    whole model get bands and diamonds. No step is left out: one without a COR is a hollow mark at the lower edge, and
    a COR above the largest radius tried is an arrow.

    Args:
        layers: ``report.layers``, one row per (step, group).
        settings: ``report.settings``; needs ``confidence`` and, for COR, ``rho`` (and ``radii``).
        quantity: ``"cor"`` or ``"gsnr"``.
        totals: ``report.totals``; None omits the whole model.
        bottleneck: ``report.bottleneck``; None finds it in the tables.
        depth_key: Whether to add a colour bar for many groups.
        note: Whether to write n and interval level above the axes.
        ax: Axes to draw on; None creates a figure.

    Returns:
        The axes; each group's line carries its name as ``gid``.

    Raises:
        ValueError: `quantity` is unknown, or a column is missing.

    Example:
        >>> import pandas as pd
        >>> layers = pd.DataFrame({"step": [0, 5], "group": "head", "depth": 0, "num_samples": 64,
        ...     "cor": [0.2, 0.04], "cor_low": [0.1, 0.03], "cor_high": [0.3, 0.06], "status": "ok"})
        >>> ax = plot_trajectory(layers, {"rho": 0.05, "confidence": 0.95})
        >>> [line.get_xdata().tolist() for line in ax.get_lines() if line.get_gid() == "diamond:head"]
        [[5.0]]
    """
    if quantity not in NAMES:
        raise ValueError(
            f"expected quantity to be one of {', '.join(NAMES)}, got {quantity!r}; pass the name of a column"
        )
    columns = ["step", "group", "depth", "num_samples", quantity, f"{quantity}_low", f"{quantity}_high"]
    columns.append("status" if quantity == "cor" else "noise_floor")
    require_columns(layers, columns, "plot_trajectory")
    groups = ordered_groups(layers)
    ax = axes_or_new(ax, COLUMN_WIDTH, 2.9)
    if bottleneck is None and {"cor", "status"} <= set(layers.columns):
        bottleneck = find_bottleneck(layers, totals)
    tables = {group: layers[layers["group"] == group].sort_values("step") for group in groups}
    if totals is not None:
        tables[TOTAL] = totals.sort_values("step")
    steps = np.unique(layers["step"].to_numpy(dtype=float))
    _set_axes(ax, list(tables.values()), settings, quantity)
    colors = {**depth_colors(groups), TOTAL: TOTAL_COLOR}
    focus = set(tables) if len(groups) <= MANY_GROUPS else {TOTAL, (bottleneck.group or TOTAL) if bottleneck else TOTAL}
    offsets = _offsets(list(tables), steps)
    for name, table in tables.items():
        _draw_group(ax, name, table, quantity, colors[name], offsets[name], name in focus)
        if quantity == "cor":
            _draw_without_number(ax, name, table, settings, colors[name], offsets[name])
        if bottleneck is not None and name in focus:
            _draw_diamond(ax, name, table, quantity, bottleneck, colors[name], offsets[name])
    _x_axis(ax, steps)
    ax.set_ylabel(NAMES[quantity])
    dress(ax, title=f"{quantity.upper()} over steps", note=sample_note(layers, settings) if note else "")
    if len(groups) > MANY_GROUPS and depth_key:
        add_depth_key(ax, groups)
    _legend(ax, groups, tables, colors, bottleneck)
    return ax


def _set_axes(ax: Axes, tables: list[pd.DataFrame], settings: Settings, quantity: str) -> None:
    rows = pd.concat(tables)
    if quantity == "gsnr":
        floor = float(rows["noise_floor"].min())
        gsnr_axis(ax, rows[["gsnr", "gsnr_low", "gsnr_high"]].to_numpy(dtype=float), floor)
        noise_floor_line(ax, floor)
        return
    ceiling = largest_radius(settings) if (rows["status"] == "above_max_radius").any() else np.nan
    undecided = bool(rows["status"].isin(["no_signal", "undefined"]).any())
    cor_axis(ax, rows, float(read_setting(settings, "rho")), ceiling=ceiling, edge_band=undecided)


def _offsets(names: list[str], steps: np.ndarray) -> dict[str, float]:
    """Return a sideways shift by group, for points of a single step and for marks that would coincide."""
    reach = 0.35 * (float(np.diff(steps).min()) if steps.size > 1 else 1.0)
    shifts = np.linspace(-reach, reach, len(names)) if len(names) > 1 else np.zeros(1)
    return dict(zip(names, map(float, shifts), strict=True))


def _draw_group(
    ax: Axes, name: str, table: pd.DataFrame, quantity: str, color: Any, offset: float, focus: bool
) -> None:
    """Draw one line, and its band if it is in focus; for a single step, a point and its bar."""
    single, wide = len(table) == 1, name == TOTAL or focus
    x = table["step"].to_numpy(dtype=float) + (offset if single else 0.0)
    y = table[quantity].where(table["status"] == "ok") if quantity == "cor" else table[quantity]
    ends = table[f"{quantity}_low"].to_numpy(dtype=float), table[f"{quantity}_high"].to_numpy(dtype=float)
    line_with_band(
        ax, x, y, ends if focus and not single else None, name=name, color=color, marker="o",
        markersize=3 if single or focus else 2, linewidth=1.3 if wide else 0.8,
        linestyle=TOTAL_DASHES if name == TOTAL else "-", zorder=4 if wide else 3,
    )  # fmt: skip
    if single:
        ax.vlines(x, *np.clip(ends, *ax.get_ylim()), color=color, linewidth=0.8, gid=f"band:{name}")


def _draw_without_number(
    ax: Axes, name: str, table: pd.DataFrame, settings: Settings, color: Any, offset: float
) -> None:
    for status, rows in table[table["status"] != "ok"].groupby("status"):
        steps = rows["step"].to_numpy(dtype=float) + offset
        if status == "above_max_radius":
            arrows = up_arrows(ax, steps, largest_radius(settings), colors=[color])
            arrows.set(gid=f"above_max_radius:{name}", sizes=[70])
            _keep_one_label(ax, arrows)
        else:
            edge_markers(ax, steps, str(status), colors=[color], label="_nolegend_").set_gid(f"edge:{status}:{name}")


def _keep_one_label(ax: Axes, artist: Any) -> None:
    if sum(label == artist.get_label() for label in ax.get_legend_handles_labels()[1]) > 1:
        artist.set_label("_nolegend_")


def _draw_diamond(
    ax: Axes, name: str, table: pd.DataFrame, quantity: str, bottleneck: BottleneckLike, color: Any, offset: float
) -> None:
    here = table[table["step"] == bottleneck.step]
    if quantity == "cor":
        here = here[here["status"] == "ok"]
    here = here[here[quantity].notna()]
    if here.empty:
        return
    x = here["step"].to_numpy(dtype=float) + (offset if len(table) == 1 else 0.0)
    style = diamond_style(color, main=name == (bottleneck.group or TOTAL))
    ax.plot(x, here[quantity].to_numpy(dtype=float), gid=f"diamond:{name}", **style)


def _x_axis(ax: Axes, steps: np.ndarray) -> None:
    gap = float(np.diff(steps).min()) if steps.size > 1 else 1.0
    ax.set_xlim(steps[0] - 0.55 * gap, steps[-1] + 0.55 * gap)
    if steps.size <= 6:
        ax.set_xticks(steps, [f"{step:g}" for step in steps])
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("training step")


def add_depth_key(ax: Axes, groups: list[str]) -> None:
    """Add a colour bar for depth, one cell per group in depth order."""
    figure = root_figure(ax)
    colormap = ListedColormap(list(depth_colors(groups).values()))
    norm = BoundaryNorm(np.arange(len(groups) + 1) - 0.5, len(groups))
    bar = figure.colorbar(ScalarMappable(norm, colormap), ax=ax, pad=0.02, aspect=28, fraction=0.06)
    height = 72 * figure.get_figheight() * ax.get_position().height
    size = float(RC["xtick.labelsize"])
    shown = sparse_positions([1.2 * size] * len(groups), height / len(groups))
    bar.set_ticks(shown, labels=[str(i + 1) if is_upright(groups) else short_label(groups[i]) for i in shown])
    bar.ax.minorticks_off()
    bar.ax.tick_params(length=2, width=0.5, labelsize=6.5)
    bar.set_label(axis_title(groups), fontsize=6.5)
    bar.outline.set_linewidth(0.4)


def _legend(
    ax: Axes,
    groups: list[str],
    tables: dict[str, pd.DataFrame],
    colors: dict[str, Any],
    bottleneck: BottleneckLike | None,
) -> None:
    """List the groups if they are few, then the total, the diamond, and the marks without a number."""
    dot: dict[str, Any] = {"marker": "o", "markersize": 3}
    handles: list[Any] = []
    if len(groups) <= MANY_GROUPS:
        handles += [Line2D([], [], color=colors[group], label=full_name(group), **dot) for group in groups]
    if TOTAL in tables:
        handles.append(Line2D([], [], color=TOTAL_COLOR, linestyle=TOTAL_DASHES, label="whole model", **dot))
    if any(str(line.get_gid()).startswith("diamond:") for line in ax.get_lines()) and bottleneck is not None:
        color = colors.get(bottleneck.group or TOTAL, MUTED)
        label = f"bottleneck: step {bottleneck.step:g}, {full_name(bottleneck.group or 'whole model')}"
        handles.append(Line2D([], [], **diamond_style(color, main=True), label=label))
    handles += ax.get_legend_handles_labels()[0]
    edges = {str(found.get_gid()).split(":")[1] for found in ax.collections if str(found.get_gid()).startswith("edge:")}
    handles += [status_proxy(status) for status in ("no_signal", "undefined") if status in edges]
    legend_below(ax, handles)
