"""Why a layer is fragile: its COR split into signal, curvature and gradient size.

``log COR = log r/(1+r) - log m - log|mu|`` holds exactly (the COR-GSNR decomposition, `docs/theory.md`). Each term is
drawn relative to the layer with the median COR, so the bars of a layer add up to its log COR relative to that layer.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from gsnr_toolkit.report.attribution import attribution_terms
from gsnr_toolkit.report.plots.frames import Settings, checked_step, sample_note
from gsnr_toolkit.report.plots.labels import extra_height, full_name, label_layers, legend_below
from gsnr_toolkit.report.plots.marks import EDGE_BAND, edge_markers
from gsnr_toolkit.report.plots.style import COLUMN_WIDTH, MUTED, OKABE_ITO, axes_or_new, dress, in_paper_style

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "step", "group", "depth", "num_samples", "cor", "cor_low", "cor_high", "status",
    "signal_fraction", "misspecification", "grad_norm",
)  # fmt: skip
# term -> (colour, legend)
TERMS = {
    "signal_fraction": (OKABE_ITO["blue"], "signal: $r/(1+r)$"),
    "misspecification": (OKABE_ITO["orange"], "curvature out of line: $1/m$"),
    "grad_norm": (OKABE_ITO["green"], r"gradient size: $1/|\mu|$"),
}


@in_paper_style
def plot_attribution(
    layers: "pd.DataFrame",
    settings: Settings,
    *,
    step: int | None = None,
    note: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw each layer's COR relative to the median layer, as stacked bars of its three causes.

    A bar above 1 raises the COR of the layer, a bar below 1 lowers it. The dot with its interval is their product:
    the COR of the layer divided by that of the median layer. Layers without a COR are hollow marks at the lower edge.

    Args:
        layers: ``report.layers``, one row per (step, group).
        settings: ``report.settings``; needs ``confidence``.
        step: Training step; None for the step of the lowest COR.
        note: Whether to write n and interval level above the axes.
        ax: Axes to draw on; None creates a figure.

    Returns:
        The axes; layer i (in depth order) is at x = i, y in decades.

    Example:
        >>> import pandas as pd
        >>> layers = pd.DataFrame({"step": 0, "group": ["stem", "head"], "depth": [0, 1], "num_samples": 64,
        ...     "cor": [0.1, 1.0], "cor_low": [0.05, 0.5], "cor_high": [0.2, 2.0], "status": "ok",
        ...     "signal_fraction": [0.1, 0.5], "misspecification": [1.0, 0.5], "grad_norm": 1.0})
        >>> len(plot_attribution(layers, {"confidence": 0.95}).containers)
        3
    """
    step, rows = checked_step(layers, COLUMNS, "plot_attribution", step)
    ax = axes_or_new(ax, COLUMN_WIDTH, 2.7 + extra_height(list(rows["group"])))
    terms, reference = attribution_terms(rows)
    x, missing = np.arange(len(rows)), terms["cor"].isna().to_numpy()
    above, below = np.zeros(len(rows)), np.zeros(len(rows))
    for name, (color, label) in TERMS.items():
        height = terms[name].fillna(0.0).to_numpy()
        base = np.where(height >= 0, above, below)
        ax.bar(x, height, bottom=base, width=0.72, color=color, label=label, linewidth=0, gid=name)
        above, below = above + np.maximum(height, 0), below + np.minimum(height, 0)
    ends = _draw_sum(ax, rows, terms, reference)
    _y_axis(ax, [*above, *below, *ends], edge_band=bool(missing.any()))
    # A COR without its factors has no bars either, so it is drawn as undefined.
    status = rows["status"].where(~(missing & (rows["status"] == "ok")), "undefined").to_numpy()
    for name in ("no_signal", "undefined", "above_max_radius"):
        if (status == name).any():
            edge_markers(ax, x[status == name], name)
    room = label_layers(ax, list(rows["group"]))
    ax.set_ylabel("COR / median COR")
    dress(ax, title=f"Why layers differ, step {step}", note=sample_note(rows, settings) if note else "")
    handles = ax.get_legend_handles_labels()[0]
    legend_below(ax, sorted(handles, key=lambda handle: handle not in ax.containers), room=room)
    return ax


def _draw_sum(ax: Axes, rows: "pd.DataFrame", terms: "pd.DataFrame", reference: str | None) -> list[float]:
    """Draw the COR of each layer over that of the reference layer; return the ends of the intervals."""
    x = np.arange(len(rows))
    label = "product: COR" + (f" (×1: {full_name(reference)})" if reference else "")
    ax.axhline(0.0, color="black", linewidth=0.6, zorder=3)
    ax.plot(
        x, terms["cor"].to_numpy(), "o", color="black", markersize=3.2, markeredgecolor="white",
        markeredgewidth=0.4, label=label, zorder=5, gid="cor",
    )  # fmt: skip
    if reference is None:
        return []
    scale = float(rows.loc[rows["group"] == reference, "cor"].iloc[0])
    ends = (rows[name].to_numpy(dtype=np.float64) for name in ("cor_low", "cor_high"))
    # One very wide interval must not flatten every bar.
    least, most = scale * 10 ** (terms["cor"].min() - 1), scale * 10 ** (terms["cor"].max() + 1)
    low, high = (np.log10(np.clip(end, least, most) / scale) for end in ends)
    known = (np.isfinite(low) & np.isfinite(high)) & terms["cor"].notna().to_numpy()
    ax.vlines(x[known], low[known], high[known], color="black", linewidth=0.8, zorder=4, gid="cor_interval")
    return [*low[known], *high[known]]


def factor_ticks(low: float, high: float) -> list[float]:
    """Choose at most about eight round factors (…, 0.5, 1, 2, 5, …) between two limits, as ticks.

    Returns:
        The ticks, in decades like the limits.

    Example:
        >>> [round(10**tick, 3) for tick in factor_ticks(-0.5, 0.5)]
        [0.5, 1.0, 2.0]
    """
    first, last = math.floor(low), math.ceil(high)
    ticks: list[float] = []
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [k + math.log10(f) for k in range(first, last + 1) for f in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 8:
            return ticks
    return ticks[:: -(-len(ticks) // 8)]


def _y_axis(ax: Axes, drawn: Sequence[float], *, edge_band: bool) -> None:
    """Label logarithms as factors, and keep the lower edge free for layers without a COR."""
    low, high = min(-0.15, *drawn), max(0.15, *drawn)
    low, high = low - 0.08 * (high - low), high + 0.08 * (high - low)
    if edge_band:
        low -= (high - low) * EDGE_BAND / (1 - EDGE_BAND)
    ax.set_ylim(low, high)
    ax.set_yticks(factor_ticks(low, high))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"×{float(f'{10**value:.2g}'):,.6g}"))
    ax.grid(axis="y", color=MUTED, alpha=0.15, linewidth=0.5)
    ax.set_axisbelow(True)
