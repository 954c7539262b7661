"""Figures of the proxy study."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure

_SCOPES = ("all", "layers", "families", "steps")
_KINDS = {"self-blended": ("vermillion", "D"), "own forgery": ("blue", "o")}
_TRUTHS = {"parameters": "true GSNR of the layer's parameters", "readout": "true GSNR of a head on its class token"}


@in_paper_style
def draw_following(table: pd.DataFrame, ranks: pd.DataFrame) -> Figure:
    """Rank correlation of proxy and true GSNR, by pool, counterpart and what is held fixed.

    Args:
        table: All measurements, for the note.
        ranks: One row per counterpart, pool, truth and scope.

    Returns:
        The figure.
    """
    figure = new_figure(TEXT_WIDTH, 2.8)
    axes = figure.subplots(1, 2, sharey=True)
    pools = list(dict.fromkeys(ranks["pool"]))
    for ax, (truth, title) in zip(axes, _TRUTHS.items(), strict=True):
        for number, (kind, (color, marker)) in enumerate(_KINDS.items()):
            for shade, pool in enumerate(pools):
                rows = ranks[(ranks["truth"] == truth) & (ranks["counterpart"] == kind) & (ranks["pool"] == pool)]
                rows = rows.set_index("scope").reindex(_SCOPES)
                places = np.arange(len(_SCOPES)) + 0.13 * (number * len(pools) + shade - len(pools) + 0.5)
                reach = np.stack([rows["spearman"] - rows["low"], rows["high"] - rows["spearman"]])
                ax.errorbar(
                    places, rows["spearman"], yerr=np.clip(reach, 0, None), fmt=marker, markersize=3.4, elinewidth=0.8,
                    color=OKABE_ITO[color], markerfacecolor=("white", OKABE_ITO[color], MUTED)[shade],
                    label=f"{kind}, {pool}",
                )  # fmt: skip
        ax.axhline(0, color=MUTED, linewidth=0.7)
        ax.set_xticks(range(len(_SCOPES)), ["all", "over layers", "over families", "over steps"])
        ax.set_ylim(-1.05, 1.05)
        dress(ax, title=title, note="")
    axes[0].set_ylabel("rank correlation with the proxy's")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=6.5)
    seeds = int(table["seed"].nunique())
    figure.suptitle(
        f"embedded data, clip-lab; n = {int(table['samples'].max())} images and as many pairs a measurement; {seeds} "
        f"seed{'s' if seeds != 1 else ''}; bars: 95 % over seeds",
        fontsize=6.5, color=MUTED, x=0.01, ha="left",
    )  # fmt: skip
    return figure


_COLORS = {
    "every token": "black",
    "random anchors, nearest tokens": "sky",
    "CGP anchors, nearest tokens": "purple",
    "CGP anchors, RRM": "orange",
    "shared anchors, nearest tokens": "green",
    "shared anchors, RRM": "vermillion",
    "CGP anchors, RRM, RSI": "orange",
    "shared anchors, RRM, RSI": "vermillion",
}


@in_paper_style
def draw_parts(parts: pd.DataFrame, variants: list[str]) -> Figure:
    """Variance, size and GSNR of the CGP by layer, for each variant.

    Args:
        parts: One row per variant, seed and layer.
        variants: In the order of the legend.

    Returns:
        The figure.
    """
    figure = new_figure(TEXT_WIDTH, 3.0)
    axes = figure.subplots(1, 3)
    titles = {"variance": "variance of a vector", "signal": "squared mean of a vector", "gsnr": "proxy GSNR"}
    for ax, (column, title) in zip(axes, titles.items(), strict=True):
        for variant in variants:
            grouped = parts[parts["variant"] == variant].groupby("depth")[column]
            mean, spread = grouped.mean(), grouped.std(ddof=1).fillna(0)
            injected = variant.endswith("RSI")
            ax.errorbar(
                mean.index, mean, yerr=spread, color=OKABE_ITO[_COLORS[variant]], linewidth=1, elinewidth=0.6,
                marker="s" if injected else "o", markersize=2.8,
                linestyle=(0, (3, 1.5)) if injected else "solid", label=variant,
            )  # fmt: skip
        if column != "gsnr":
            ax.set_yscale("log")
        else:
            ax.axhline(0, color=MUTED, linewidth=0.7)
        ax.set_xlabel("layer")
        dress(ax, title=title, note="")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=6.5)
    figure.suptitle(
        f"embedded data, clip-demo; n = {int(parts['pairs'].max())} pairs of real images and self-blended copies; mean "
        f"of {parts['seed'].nunique()} seeds, bars: standard deviation",
        fontsize=6.5, color=MUTED, x=0.01, ha="left",
    )  # fmt: skip
    return figure
