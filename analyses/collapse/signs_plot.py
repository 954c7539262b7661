"""Figure of the signs: how COR, GSNR and the escape radius move along controlled axes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
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
    """Draw rank correlations, and the share of each factor in the variance of log COR, as heat maps.

    Args:
        axes_table: One row per axis and family.

    Returns:
        The figure: a row per axis and family, the number in each cell, colours from -1 to 1.
    """
    rows = axes_table.sort_values(["axis", "family"], ignore_index=True)
    rows.index = pd.Index([f"{row.axis}, {row.family} (n = {row.num})" for row in rows.itertuples()])
    figure = new_figure(TEXT_WIDTH, 0.26 * len(rows) + 1.3)
    panels = figure.subplots(1, 2, width_ratios=[len(COLUMNS), len(SHARES)])
    titles = "rank correlations", "share of the variance of log COR"
    for ax, columns, title in zip(panels, (COLUMNS, SHARES), titles, strict=True):
        values = rows[list(columns)].rename(columns=columns).astype(float)
        sns.heatmap(values, cmap="PuOr", vmin=-1, vmax=1, cbar=False, yticklabels=ax is panels[0], ax=ax)
        # By hand: seaborn's annotations leave out missing values, and use white on pale cells.
        for (i, j), value in np.ndenumerate(values.to_numpy()):
            words = "none" if np.isnan(value) else f"{value:.2f}"
            color = "white" if abs(value) > 0.65 else "black"
            ax.text(j + 0.5, i + 0.5, words, ha="center", va="center", fontsize=6.5, color=color)
        dress(ax, title=title, note="COR by Definition 1, our reconstruction")
        ax.tick_params(length=0, which="both")
    return figure
