"""Figure of the signs: how COR, GSNR and the escape radius move along controlled axes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gsnr_toolkit.report.plots.style import TEXT_WIDTH, dress, in_paper_style, new_figure

COLUMNS = {
    "cor_with_gsnr": "COR with\nGSNR",
    "cor_with_gsnr_apart": "COR, GSNR of\nother samples",
    "gsnr_along": "GSNR along\nthe axis",
    "cor_along": "COR along\nthe axis",
    "escape_lower_along": "escape radius\n(lower bound)",
}
SHARES = {"share_signal_fraction": "signal", "share_misspecification": "curvature", "share_grad_norm": "norm"}


@in_paper_style
def draw_signs(axes_table: pd.DataFrame) -> Figure:
    """Rank correlations, and the share of the variance of log COR that goes with each factor.

    Args:
        axes_table: One row per axis and family.

    Returns:
        The figure: a row for each axis and family, numbers in the cells, colour from -1 to 1.
    """
    rows = axes_table.sort_values(["axis", "family"], ignore_index=True)
    figure = new_figure(TEXT_WIDTH, 0.26 * len(rows) + 1.3)
    left, right = figure.subplots(1, 2, width_ratios=[len(COLUMNS), len(SHARES)], sharey=True)
    names = [f"{row.axis}, {row.family} (n = {row.num})" for row in rows.itertuples()]
    for ax, columns, title in (
        (left, COLUMNS, "rank correlations"),
        (right, SHARES, "share of the variance of log COR"),
    ):
        values = rows[list(columns)].to_numpy(dtype=float)
        ax.imshow(np.ma.masked_invalid(values), cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            shown = f"{value:.2f}" if np.isfinite(value) else "none"
            dark = abs(value) > 0.65
            ax.text(j, i, shown, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
        ax.set_xticks(range(len(columns)), list(columns.values()))
        ax.set_yticks(range(len(rows)), names)
        ax.tick_params(length=0)
        ax.grid(visible=False)
        dress(ax, title=title, note="COR by Definition 1, our reconstruction")
    return figure
