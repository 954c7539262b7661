"""Steps on the plateau against the radius: the curve of a range test."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import seaborn as sns
from matplotlib.figure import Figure

from gsnr_toolkit.report.plots.labels import legend_below
from gsnr_toolkit.report.plots.style import COLUMN_WIDTH, MUTED, OKABE_ITO, ZONE_COLOR, in_paper_style, new_figure

if TYPE_CHECKING:
    from gsnr_toolkit.search.result import RhoSearch

_LOOKS = {
    "left": ("leaves the plateau", "o", "blue"),
    "delayed": ("delayed", "s", "orange"),
    "fell_back": ("falls back", "v", "vermillion"),
    "sank": ("sinks", "X", "purple"),
    "diverged": ("diverges", "P", "black"),
}


@in_paper_style
def plot_rho_search(found: RhoSearch) -> Figure:
    """Draw the steps on the plateau against the radius, one mark per trial, by outcome.

    Args:
        found: The result of a range test.

    Returns:
        A figure. The dashed line is the plain run, the red zone begins at the smallest radius that fails, and the
        dotted line is the suggested radius.
    """
    figure = new_figure(COLUMN_WIDTH, 2.6)
    ax = figure.subplots()
    trials = found.trials[found.trials["rho"] > 0]
    for outcome, (label, marker, colour) in _LOOKS.items():
        rows = trials[trials["outcome"] == outcome]
        if len(rows):
            sns.scatterplot(
                rows, x="rho", y="steps_on_plateau", marker=marker, color=OKABE_ITO[colour], label=label, s=28, ax=ax
            )
    if len(trials):
        ax.set_xscale("log")
        ax.set_xlim(trials["rho"].min() / 2, trials["rho"].max() * 2)
    if found.plain_steps:
        ax.axhline(found.plain_steps, color=MUTED, linestyle="--", label="plain run")
    if math.isfinite(found.high):
        ax.axvspan(found.high, ax.get_xlim()[1], color=ZONE_COLOR, alpha=0.12, lw=0)
    if found.rho:
        ax.axvline(found.rho, color=OKABE_ITO["green"], linestyle=":", label=f"suggested {found.rho:g}")
    ax.set(xlabel=r"radius $\rho$", ylabel="steps on the plateau")
    ax.set_ylim(bottom=0)
    if ax.get_legend_handles_labels()[0]:
        legend_below(ax)
    return figure
