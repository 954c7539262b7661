"""Figure of the controls: test AUC of each way to set the radius, past and before the collapse."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gsnr_toolkit.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure

ORDER = ("plain", "SAM", "auto", "ASAM")


@in_paper_style
def draw_controls(table: pd.DataFrame) -> Figure:
    """Mean test AUC over seeds and its range, a row for each control, a panel for each family.

    Args:
        table: One row per family and control: ``test_auc, auc_min, auc_max, share_collapsed, rho_last, num_seeds``.

    Returns:
        The figure; a control in which any seed collapsed is drawn open.
    """
    families = list(dict.fromkeys(table["family"]))
    controls = sorted(dict.fromkeys(table["control"]), key=_rank)
    figure = new_figure(TEXT_WIDTH, 0.19 * len(controls) + 1.0)
    axes = figure.subplots(1, len(families), squeeze=False, sharey=True)[0]
    places = {name: len(controls) - 1 - i for i, name in enumerate(controls)}
    for ax, family in zip(axes, families, strict=True):
        rows = table[table["family"] == family]
        for row in rows.to_dict("records"):
            color = OKABE_ITO["vermillion" if row["share_collapsed"] else "blue"]
            reach = np.abs([[row["test_auc"] - row["auc_min"]], [row["auc_max"] - row["test_auc"]]])
            face = "white" if row["share_collapsed"] else color
            ax.errorbar(
                row["test_auc"], places[row["control"]], xerr=reach, fmt="o", markersize=4, color=color,
                markerfacecolor=face, elinewidth=0.8, gid=row["control"],
            )  # fmt: skip
        ax.axvline(0.5, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)))
        ax.set_yticks(list(places.values()), list(places))
        ax.set_xlim(0.45, 1.0)
        ax.set_xlabel("test AUC (dot: mean, bar: range over seeds)")
        seeds = int(rows["num_seeds"].max())
        dress(ax, title=f"demo-{family}", note=f"embedded data, {seeds} seeds; open: a seed has collapsed")
    return figure


def _rank(name: str) -> tuple[int, int, str]:
    kind = next(i for i, word in enumerate(ORDER) if name.startswith(word))
    return kind, int("after" in name) + 2 * int("rising" in name), name
