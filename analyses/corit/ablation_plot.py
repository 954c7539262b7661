"""The figure of the ablation: change of AUC by variant, on the training family and on all others."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analyses.support.figure import grey_title
from gsnr_toolkit.report.plots.categories import category_handles, plot_categories
from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure

_LOOKS = {"family trained on": (OKABE_ITO["blue"], "o"), "all other families": (OKABE_ITO["vermillion"], "D")}


@in_paper_style
def draw_ablation(parts: pd.DataFrame, num_test: int) -> Figure:
    """Draw the change of AUC against the full detector, a panel for each training family.

    Args:
        parts: One row per training family and variant.
        num_test: Images of each test set, for the note.

    Returns:
        The figure.
    """
    families = list(dict.fromkeys(parts["trained_on"]))
    figure = new_figure(TEXT_WIDTH, 0.19 * parts["variant"].nunique() + 1.2)
    axes = np.atleast_1d(figure.subplots(1, len(families), sharey=True))
    for ax, family in zip(axes, families, strict=True):
        rows = parts[parts["trained_on"] == family]
        plot_categories(
            ax, _long(rows), category="variant", value="change", interval=("low", "high"), hue="tested on",
            looks=_LOOKS, horizontal=True,
        )  # fmt: skip
        ax.axvline(0, color=MUTED, linewidth=0.7)
        ax.set_xlabel("change of test AUC, points")
        first = rows.iloc[0]
        dress(ax, title=f"trained on demo-{family}", note=f"full: {first['own_auc']:.3f} / {first['cross_auc']:.3f}")
    figure.legend(handles=category_handles(_LOOKS), loc="outside lower center", ncols=2)
    grey_title(
        figure,
        f"embedded data; n = {num_test} images of each of 8 test sets, {int(parts['num_seeds'].max())} seeds; bars: "
        "95 % over seeds, paired; (x): cost in encoder passes",
    )
    return figure


def _long(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per variant and kind of test set, in points of AUC."""
    names = [f"{row.variant}  ({row.cost:.1f}x)" for row in rows.itertuples()]
    frames = []
    for kind, label in zip(("own", "cross"), _LOOKS, strict=True):
        change, margin = 100 * rows[f"{kind}_change"], 100 * rows[f"{kind}_margin"]
        ends = {"low": change - margin, "high": change + margin}
        frames.append(pd.DataFrame({"variant": names, "tested on": label, "change": change, **ends}))
    return pd.concat(frames, ignore_index=True)
