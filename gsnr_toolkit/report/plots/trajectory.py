"""GSNR or COR over training steps, a line per layer, the bottleneck step marked by a diamond."""

from typing import TYPE_CHECKING, Any

import numpy as np
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
    collapse_zone,
    diamond_style,
    edge_markers,
    edge_strip,
    gsnr_axis,
    log_limits,
    status_proxy,
    tidy_log_axis,
    up_arrows,
)
from gsnr_toolkit.report.plots.style import (
    COLUMN_WIDTH,
    MANY_GROUPS,
    MUTED,
    OKABE_ITO,
    RC,
    TOTAL_COLOR,
    axes_or_new,
    depth_colors,
    dress,
    in_paper_style,
    root_figure,
)

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"cor": "critical radius (COR)", "gsnr": "GSNR"}
TOTAL = "total"


@in_paper_style
def plot_trajectory(
    layers: "pd.DataFrame",
    settings: Settings,
    *,
    quantity: str = "cor",
    totals: "pd.DataFrame | None" = None,
    bottleneck: BottleneckLike | None = None,
    depth_key: bool = True,
    note: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw COR or GSNR over steps by layer, with interval bands and the bottleneck step as diamonds.

    With more than six groups, colour means depth (dark: input, light: output), and bands and diamonds are
    kept for the bottleneck group and the whole model. Measured steps without a COR are hollow marks at the
    lower edge, and COR above the largest radius tried are arrows; neither is dropped.

    Args:
        layers: ``report.layers``, one row per (step, group).
        settings: ``report.settings``; needs ``confidence`` and, for COR, ``rho`` (and ``radii``).
        quantity: ``"cor"`` or ``"gsnr"``.
        totals: ``report.totals``; None leaves the whole model out.
        bottleneck: ``report.bottleneck``; None finds it in the tables.
        depth_key: Whether many groups get a colour bar; off where a neighbouring panel has it.
        note: Whether n and interval level stand above the axes; off where a figure says them once.
        ax: Axes to draw on; None makes a figure.

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
        raise ValueError(f"quantity must be one of {', '.join(NAMES)}, got {quantity!r}")
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


def _set_axes(ax: Axes, tables: "list[pd.DataFrame]", settings: Settings, quantity: str) -> None:
    names = [quantity, f"{quantity}_low", f"{quantity}_high"]
    values = np.concatenate([table[names].to_numpy(dtype=float) for table in tables])
    if quantity == "gsnr":
        floor = min(float(table["noise_floor"].min()) for table in tables)
        gsnr_axis(ax, values, floor)
        ax.axhline(
            floor,
            color=OKABE_ITO["orange"],
            linestyle=(0, (4, 2)),
            linewidth=0.9,
            label=f"noise floor 1/n = {floor:.2g}",
        )
        return
    status = np.concatenate([table["status"].to_numpy() for table in tables])
    rho = float(read_setting(settings, "rho"))
    values = values[status == "ok"]
    known = values[:, 0][np.isfinite(values[:, 0]) & (values[:, 0] > 0)]
    lowest = known.min() / 10 if known.size else rho / 10
    shown = [
        *known,
        *np.maximum(values[:, 1], lowest),
        *values[:, 2][np.isfinite(values[:, 2])],
        rho / 1.6,
        rho * 1.6,
    ]
    if (status == "above_max_radius").any():
        shown.append(2.2 * largest_radius(settings))
    ax.set_yscale("log")
    without_number = bool(np.isin(status, ["no_signal", "undefined"]).any())
    ax.set_ylim(log_limits(shown, edge_band=without_number))
    tidy_log_axis(ax)
    collapse_zone(ax, rho)
    if without_number:
        edge_strip(ax)


def _offsets(names: list[str], steps: np.ndarray) -> dict[str, float]:
    """Return a sideways shift by group: for a single step's points, and for marks that would coincide."""
    gap = float(np.diff(steps).min()) if steps.size > 1 else 1.0
    reach = 0.35 * gap
    shifts = np.linspace(-reach, reach, len(names)) if len(names) > 1 else np.zeros(1)
    return dict(zip(names, map(float, shifts), strict=True))


def _draw_group(
    ax: Axes, name: str, table: "pd.DataFrame", quantity: str, color: Any, offset: float, focus: bool
) -> None:
    """Draw one line, and its band when it is in focus; with a single step, a point and its bar."""
    single = len(table) == 1
    x = table["step"].to_numpy(dtype=float) + (offset if single else 0.0)
    y = table[quantity].to_numpy(dtype=float)
    low, high = (table[f"{quantity}_{end}"].to_numpy(dtype=float) for end in ("low", "high"))
    low, high = (
        np.clip(low, ax.get_ylim()[0] if ax.get_yscale() == "log" else -np.inf, None),
        np.minimum(high, ax.get_ylim()[1]),
    )
    if quantity == "cor":
        y = np.where(table["status"] == "ok", y, np.nan)
    wide = name == TOTAL or focus
    ax.plot(
        x, y, marker="o", color=color, markersize=3 if single or focus else 2, linewidth=1.3 if wide else 0.8,
        linestyle=(0, (5, 1.5)) if name == TOTAL else "-", zorder=4 if wide else 3, gid=name,
    )  # fmt: skip
    if single:
        ax.vlines(x, low, high, color=color, linewidth=0.8, gid=f"band:{name}")
    elif focus:
        ax.fill_between(x, low, high, color=color, alpha=0.16, linewidth=0, zorder=2, gid=f"band:{name}")


def _draw_without_number(
    ax: Axes, name: str, table: "pd.DataFrame", settings: Settings, color: Any, offset: float
) -> None:
    for status in ("no_signal", "undefined"):
        steps = table.loc[table["status"] == status, "step"].to_numpy(dtype=float)
        if steps.size:
            edge_markers(ax, steps + offset, status, colors=[color], label="_nolegend_").set_gid(
                f"edge:{status}:{name}"
            )
    steps = table.loc[table["status"] == "above_max_radius", "step"].to_numpy(dtype=float)
    if steps.size:
        arrows = up_arrows(ax, steps + offset, largest_radius(settings), colors=[color])
        arrows.set(gid=f"above_max_radius:{name}", sizes=[70])
        _keep_one_label(ax, arrows)


def _keep_one_label(ax: Axes, artist: Any) -> None:
    if sum(label == artist.get_label() for label in ax.get_legend_handles_labels()[1]) > 1:
        artist.set_label("_nolegend_")


def _draw_diamond(
    ax: Axes,
    name: str,
    table: "pd.DataFrame",
    quantity: str,
    bottleneck: BottleneckLike,
    color: Any,
    offset: float,
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
    """Add a colour bar that reads depth, one cell per group in depth order."""
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
    tables: "dict[str, pd.DataFrame]",
    colors: dict[str, Any],
    bottleneck: BottleneckLike | None,
) -> None:
    """List the groups when they are few, then the total, the diamond, and the marks without a number."""
    handles: list[Any] = []
    if len(groups) <= MANY_GROUPS:
        handles += [
            Line2D([], [], color=colors[group], marker="o", markersize=3, label=full_name(group)) for group in groups
        ]
    if TOTAL in tables:
        handles.append(
            Line2D(
                [],
                [],
                color=TOTAL_COLOR,
                linestyle=(0, (5, 1.5)),
                marker="o",
                markersize=3,
                label="whole model",
            )
        )
    if any(str(line.get_gid()).startswith("diamond:") for line in ax.get_lines()) and bottleneck is not None:
        color = colors.get(bottleneck.group or TOTAL, MUTED)
        label = f"bottleneck: step {bottleneck.step:g}, {full_name(bottleneck.group or 'whole model')}"
        handles.append(Line2D([], [], **diamond_style(color, main=True), label=label))
    handles += ax.get_legend_handles_labels()[0]
    if "status" in next(iter(tables.values())).columns and ax.get_yscale() == "log":
        present = {status for table in tables.values() for status in table["status"]}
        handles += [status_proxy(status) for status in ("no_signal", "undefined") if status in present]
    legend_below(ax, handles)
