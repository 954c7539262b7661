"""COR and GSNR by layer at one step: which layer is fragile, and compared with what."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gsnr_toolkit.report.plots.frames import (
    Settings,
    checked_step,
    largest_radius,
    read_setting,
    require_columns,
    sample_note,
)
from gsnr_toolkit.report.plots.labels import extra_height, label_layers, legend_below
from gsnr_toolkit.report.plots.marks import (
    FLOOR_STYLE,
    cor_axis,
    edge_markers,
    gsnr_axis,
    interval_bars,
    up_arrows,
)
from gsnr_toolkit.report.plots.style import COLUMN_WIDTH, OKABE_ITO, axes_or_new, dress, in_paper_style, new_figure

if TYPE_CHECKING:
    import pandas as pd

COR_COLUMNS = ("step", "group", "depth", "num_samples", "cor", "cor_low", "cor_high", "status")
GSNR_COLUMNS = ("step", "group", "depth", "num_samples", "gsnr", "gsnr_low", "gsnr_high", "noise_floor")


@in_paper_style
def plot_cor_by_layer(
    layers: "pd.DataFrame",
    settings: Settings,
    *,
    step: int | None = None,
    note: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the critical optimization radius of every layer, with the collapse zone ``COR < rho`` in red.

    No layer is left out: a layer without signal is a hollow circle at the lower edge, an undefined one a hollow
    square, and one whose drift did not cross up to the largest radius tried is an arrow that starts there.

    Args:
        layers: ``report.layers``, one row per (step, group).
        settings: ``report.settings``; needs ``rho``, ``confidence`` and, with such arrows, ``radii``.
        step: Training step; None for the step of the lowest COR.
        note: Whether to write n and interval level above the axes.
        ax: Axes to draw on; None creates a figure.

    Returns:
        The axes; layer i (in depth order) is at x = i.

    Example:
        >>> import pandas as pd
        >>> layers = pd.DataFrame({"step": 0, "group": ["stem", "head"], "depth": [0, 1], "num_samples": 64,
        ...     "cor": [0.2, float("nan")], "cor_low": [0.1, float("nan")], "cor_high": [0.3, float("nan")],
        ...     "status": ["ok", "no_signal"]})
        >>> plot_cor_by_layer(layers, {"rho": 0.05, "confidence": 0.95}).get_yscale()
        'log'
    """
    step, rows = checked_step(layers, COR_COLUMNS, "plot_cor_by_layer", step)
    ax = axes_or_new(ax, COLUMN_WIDTH, 2.6 + extra_height(list(rows["group"])))
    status, x = rows["status"].to_numpy(), np.arange(len(rows))
    valued, above = status == "ok", status == "above_max_radius"
    ceiling = largest_radius(settings) if above.any() or np.isinf(rows["cor_high"]).any() else np.nan
    undecided = bool((~valued & ~above).any())
    cor_axis(ax, rows, float(read_setting(settings, "rho")), ceiling=ceiling, edge_band=undecided, reach=30)
    color, good = OKABE_ITO["blue"], rows[valued]
    interval_bars(ax, x[valued], good["cor_low"], good["cor_high"], ceiling=ceiling, color=color, gid="cor_interval")
    label = "COR" if valued.any() else None
    ax.plot(x, rows["cor"].where(valued), "-o", color=color, label=label, gid="cor", zorder=3)
    for name in ("no_signal", "undefined"):
        if (status == name).any():
            edge_markers(ax, x[status == name], name)
    if above.any():
        up_arrows(ax, x[above], ceiling, colors=OKABE_ITO["blue"])
    room = label_layers(ax, list(rows["group"]))
    ax.set_ylabel("critical radius (COR)")
    dress(ax, title=f"COR by layer, step {step}", note=sample_note(rows, settings) if note else "")
    legend_below(ax, room=room)
    return ax


@in_paper_style
def plot_gsnr_by_layer(
    layers: "pd.DataFrame",
    settings: Settings,
    *,
    step: int | None = None,
    note: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the bias-corrected GSNR of every layer against the noise floor ``1/n``.

    A negative estimate means no signal above the floor. If there is one, the axis is symmetric-log, linear within one
    noise floor of zero. A layer without a GSNR (no variance) is a hollow square at the lower edge.

    Args:
        layers: ``report.layers``, one row per (step, group).
        settings: ``report.settings``; needs ``confidence``.
        step: Training step; None for the step of the lowest COR, or the last one.
        note: Whether to write n and interval level above the axes.
        ax: Axes to draw on; None creates a figure.

    Returns:
        The axes; layer i (in depth order) is at x = i.

    Example:
        >>> import pandas as pd
        >>> layers = pd.DataFrame({"step": 0, "group": ["stem", "head"], "depth": [0, 1], "num_samples": 64,
        ...     "gsnr": [-0.002, 0.3], "gsnr_low": [-0.01, 0.1], "gsnr_high": [0.01, 0.6],
        ...     "noise_floor": 1 / 64})
        >>> plot_gsnr_by_layer(layers, {"confidence": 0.95}).get_yscale()
        'symlog'
    """
    step, rows = checked_step(layers, GSNR_COLUMNS, "plot_gsnr_by_layer", step)
    ax = axes_or_new(ax, COLUMN_WIDTH, 2.4 + extra_height(list(rows["group"])))
    x, color = np.arange(len(rows)), OKABE_ITO["green"]
    floor = rows["noise_floor"].to_numpy(dtype=float)
    gsnr_axis(ax, rows[["gsnr", "gsnr_low", "gsnr_high"]].to_numpy(dtype=float), float(np.nanmin(floor)))
    ax.step(
        np.r_[-0.6, x, len(rows) - 0.4], np.r_[floor[0], floor, floor[-1]], where="mid", gid="noise_floor",
        label=f"noise floor 1/n = {np.nanmin(floor):.2g}", **FLOOR_STYLE,
    )  # fmt: skip
    top = ax.get_ylim()[1]
    interval_bars(ax, x, rows["gsnr_low"], rows["gsnr_high"], ceiling=top, color=color, gid="gsnr_interval")
    label = "GSNR (≤ 0: nothing above the floor)" if (rows["gsnr"] <= 0).any() else "GSNR, bias-corrected"
    ax.plot(x, rows["gsnr"].to_numpy(dtype=float), "-o", color=color, label=label, gid="gsnr", zorder=3)
    missing = rows["gsnr"].isna().to_numpy()
    if missing.any():
        edge_markers(ax, x[missing], "undefined", label="GSNR undefined (at edge)")
    room = label_layers(ax, list(rows["group"]))
    ax.set_ylabel("GSNR")
    dress(ax, title=f"GSNR by layer, step {step}", note=sample_note(rows, settings) if note else "")
    legend_below(ax, room=room)
    return ax


@in_paper_style
def plot_layer_profile(layers: "pd.DataFrame", settings: Settings, *, step: int | None = None) -> Figure:
    """Draw GSNR by layer above COR by layer, at one step (by default that of the lowest COR), one column wide."""
    require_columns(layers, sorted({*COR_COLUMNS, *GSNR_COLUMNS}), "plot_layer_profile")
    figure = new_figure(COLUMN_WIDTH, 5.0 + 2 * extra_height(list(layers["group"])))
    top, bottom = figure.subplots(2, 1, height_ratios=(1, 1.15))
    plot_gsnr_by_layer(layers, settings, step=step, ax=top)
    plot_cor_by_layer(layers, settings, step=step, ax=bottom)
    return figure
