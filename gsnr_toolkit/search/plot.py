"""Steps on the plateau against the radius: the curve of a range test."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import seaborn as sns
from matplotlib.figure import Figure

from gsnr_toolkit.report.plots.labels import legend_below
from gsnr_toolkit.report.plots.marks import tidy_log_axis
from gsnr_toolkit.report.plots.style import COLUMN_WIDTH, MUTED, OKABE_ITO, ZONE_COLOR, in_paper_style, new_figure

if TYPE_CHECKING:
    import pandas as pd

_LOOKS = {
    "left": ("leaves the plateau", "o", "blue"),
    "delayed": ("delayed", "s", "orange"),
    "fell_back": ("falls back", "v", "vermillion"),
    "sank": ("sinks", "X", "purple"),
    "diverged": ("diverges", "P", "black"),
}


@in_paper_style
def plot_rho_search(trials: pd.DataFrame, *, plain_steps: int, high: float, rho: float) -> Figure:
    """Draw the steps on the plateau against the radius, one mark per trial, by outcome.

    Args:
        trials: ``RhoSearch.trials``.
        plain_steps: Steps of the plain run on the plateau.
        high: Smallest radius that fails; infinity if none does.
        rho: Suggested radius; 0 for none.

    Returns:
        A figure. The dashed line is the plain run, the red zone begins at the smallest radius that fails, and the
        dotted line is the suggested radius.
    """
    figure = new_figure(COLUMN_WIDTH, 2.6)
    ax = figure.subplots()
    trials = trials[trials["rho"] > 0]
    for outcome, (label, marker, colour) in _LOOKS.items():
        rows = trials[trials["outcome"] == outcome]
        if len(rows):
            sns.scatterplot(
                rows, x="rho", y="steps_on_plateau", marker=marker, color=OKABE_ITO[colour], label=label, s=28, ax=ax
            )
    if len(trials):
        ax.set_xscale("log")
        ax.set_xlim(min(trials["rho"].min(), rho or math.inf) / 1.5, trials["rho"].max() * 1.5)
        tidy_log_axis(ax, "x")
    if plain_steps:
        ax.axhline(plain_steps, color=MUTED, linestyle="--", label="plain run")
    if math.isfinite(high):
        ax.axvspan(high, ax.get_xlim()[1], color=ZONE_COLOR, alpha=0.12, lw=0)
    if rho:
        ax.axvline(rho, color=OKABE_ITO["green"], linestyle=":", label=f"suggested {rho:g}")
    ax.set(xlabel=r"radius $\rho$", ylabel="steps on the plateau")
    ax.set_ylim(bottom=0)
    if ax.get_legend_handles_labels()[0]:
        legend_below(ax)
    return figure
