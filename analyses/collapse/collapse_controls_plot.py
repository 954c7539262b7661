"""The figure of ``collapse_controls``: test AUC and cost of every control beyond the collapse radius."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analyses.support.families import COLORS, MARKERS, data_words
from analyses.support.figure import caption_line, save_figure
from analyses.support.tables import read_table
from gsnr_toolkit.report.plots.categories import category_handles, plot_categories
from gsnr_toolkit.report.plots.style import MUTED, TEXT_WIDTH, dress, in_paper_style, new_figure

__all__ = ["draw_controls", "plot_controls"]

_ORDER = ("plain", "COR", "SAM", "ASAM")


def plot_controls(out: Path) -> None:
    """Draw the figure from the tables stored in a folder."""
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
    """Draw AUC and cost of each control, a mark per family; ``table`` has a row per family and control."""
    table = table.assign(hollow=table["share_collapsed"] > 0, place=table["control"].map(_rank)).sort_values(
        "place", kind="stable"
    )
    looks = {name: (COLORS.get(name, MUTED), MARKERS.get(name, "o")) for name in table["family"].drop_duplicates()}
    figure = new_figure(TEXT_WIDTH, 0.2 * table["control"].nunique() + 1.3)
    auc, time = figure.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
    common: dict[str, Any] = {"category": "control", "hue": "family", "looks": looks, "horizontal": True}
    plot_categories(auc, table, value="test_auc", interval=("auc_min", "auc_max"), hollow="hollow", **common)
    plot_categories(time, table, value="passes", **common)
    for ax, chance in ((auc, 0.5), (time, 1)):
        ax.axvline(chance, color=MUTED, linewidth=0.8, linestyle=(0, (1, 1.2)))
        ax.grid(axis="y", color=MUTED, alpha=0.15, linewidth=0.5)
    dress(auc, title="What helps beyond the collapse radius?", note="")
    dress(time, title="What it costs", note="")
    auc.set_xlabel("test AUC")
    time.set_xlabel("passes over a batch, per step")
    time.set_xlim(left=0)
    time.legend(handles=category_handles(looks), loc="lower right")
    return figure


def _rank(name: str) -> tuple[int, str]:
    return next((index for index, start in enumerate(_ORDER) if name.startswith(start)), len(_ORDER)), name
