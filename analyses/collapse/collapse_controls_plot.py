"""The figure of ``collapse_controls``: test AUC and cost of everything that was tried past the collapse radius."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.support.families import COLORS, MARKERS, data_words
from analyses.support.figure import caption_line, save_figure
from analyses.support.tables import read_table
from gsnr_toolkit.report.plots.style import MUTED, TEXT_WIDTH, dress, in_paper_style, new_figure

__all__ = ["draw_controls", "plot_controls"]

_ORDER = ("plain", "auto", "SAM", "ASAM")


def plot_controls(out: Path) -> None:
    """Draw the figure from the stored table.

    Args:
        out: Folder of the tables.
    """
    table, runs = read_table(out, "collapse_controls"), read_table(out, "collapse_controls_runs")
    caption = caption_line(
        data_words(list(runs["data"].drop_duplicates())),
        f"{', '.join(runs['model'].drop_duplicates())}, all parameters trained",
        f"n = {int(runs['num_test'].max())} test images",
        f"mean of {int(table['num_seeds'].max())} seeds, bars: from the lowest to the highest",
        "hollow: some seed collapsed",
    )
    save_figure(draw_controls(table), out, "collapse_controls", caption)


@in_paper_style
def draw_controls(table: pd.DataFrame) -> Figure:
    """Draw AUC and cost of each control, a mark per family.

    Args:
        table: A row per family and control.

    Returns:
        The figure, two columns wide.
    """
    names = sorted(table["control"].unique(), key=_rank)
    figure = new_figure(TEXT_WIDTH, 0.2 * len(names) + 1.3)
    auc, time = figure.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
    families = list(table["family"].drop_duplicates())
    for index, family in enumerate(families):
        own = table[table["family"] == family].set_index("control").reindex(names)
        y = np.arange(len(names)) + 0.24 * (index - (len(families) - 1) / 2)
        color = COLORS.get(family, MUTED)
        marker = MARKERS.get(family, "o")
        auc.hlines(y, own["auc_min"], own["auc_max"], color=color, linewidth=0.9)
        for place, row in zip(y, own.itertuples(), strict=True):
            face = "white" if float(str(row.share_collapsed)) > 0 else color
            auc.plot([row.test_auc], [place], marker=marker, color=color, markerfacecolor=face, markersize=4)
        time.plot(own["passes"], y, linestyle="none", marker=marker, color=color, markersize=4, label=family)
    _finish(auc, time, names)
    return figure


def _finish(auc: Axes, time: Axes, names: list[str]) -> None:
    auc.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (1, 1.2)))
    auc.set_yticks(range(len(names)), names)
    auc.invert_yaxis()
    auc.set_xlabel("test AUC")
    time.set_xlabel("passes over a batch, per step")
    time.axvline(1, color=MUTED, linewidth=0.8, linestyle=(0, (1, 1.2)))
    for ax in (auc, time):
        ax.grid(axis="y", color=MUTED, alpha=0.15, linewidth=0.5)
    dress(auc, title="What helps past the collapse radius?", note="")
    dress(time, title="What it costs", note="")
    time.set_xlim(left=0)
    time.legend(loc="best")


def _rank(name: str) -> tuple[int, str]:
    return next((index for index, start in enumerate(_ORDER) if name.startswith(start)), len(_ORDER)), name
