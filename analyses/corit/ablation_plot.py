"""The figure of the ablation: change of AUC by variant, on the family trained on and on all others."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure

_KINDS = {"own": ("blue", "o", "family trained on"), "cross": ("vermillion", "D", "all other families")}


@in_paper_style
def draw_ablation(parts: pd.DataFrame, num_test: int) -> Figure:
    """Change of AUC against the full detector, a panel for each training family.

    Args:
        parts: One row per training family and variant.
        num_test: Images of each test set, for the note.

    Returns:
        The figure.
    """
    families = list(dict.fromkeys(parts["trained_on"]))
    variants = list(dict.fromkeys(parts["variant"]))
    figure = new_figure(TEXT_WIDTH, 0.19 * len(variants) + 1.2)
    axes = np.atleast_1d(figure.subplots(1, len(families), sharey=True))
    places = np.arange(len(variants))[::-1]
    for ax, family in zip(axes, families, strict=True):
        rows = parts[parts["trained_on"] == family].set_index("variant").reindex(variants)
        for number, (name, (color, marker, label)) in enumerate(_KINDS.items()):
            ax.errorbar(
                100 * rows[f"{name}_change"], places + 0.18 - 0.36 * number, xerr=100 * rows[f"{name}_margin"],
                fmt=marker, markersize=3.2, elinewidth=0.8, color=OKABE_ITO[color], label=label,
            )  # fmt: skip
        ax.axvline(0, color=MUTED, linewidth=0.7)
        ax.set_xlabel("change of test AUC, points")
        first = rows.iloc[0]
        dress(ax, title=f"trained on demo-{family}", note=f"full: {first['own_auc']:.3f} / {first['cross_auc']:.3f}")
    costs = parts.drop_duplicates("variant").set_index("variant")["cost"]
    axes[0].set_yticks(places, [f"{name}  ({costs[name]:.1f}x)" for name in variants])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=6.5)
    figure.suptitle(
        f"embedded data; n = {num_test} images of each of 8 test sets, {int(parts['num_seeds'].max())} seeds; bars: "
        "95 % over seeds, paired; (x): cost in encoder passes",
        fontsize=6.5, color=MUTED, x=0.01, ha="left",
    )  # fmt: skip
    return figure
