"""Figures of the proxy study."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analyses.support.figure import grey_title
from gsnr_toolkit.report.plots.categories import category_handles, plot_categories
from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure

_SCOPES = {"all": "all", "layers": "over layers", "families": "over families", "steps": "over steps"}
_KINDS = {"self-blended": (OKABE_ITO["vermillion"], "D"), "own forgery": (OKABE_ITO["blue"], "o")}
_TRUTHS = {"parameters": "true GSNR of the layer's parameters", "readout": "true GSNR of a head on its class token"}


@in_paper_style
def draw_following(table: pd.DataFrame, ranks: pd.DataFrame) -> Figure:
    """Draw the rank correlation of proxy and true GSNR, by pool, counterpart and what is held fixed.

    Args:
        table: All measurements, for the note.
        ranks: One row per counterpart, pool, truth and scope.

    Returns:
        The figure.
    """
    figure = new_figure(TEXT_WIDTH, 2.8)
    axes = figure.subplots(1, 2, sharey=True)
    pools = list(dict.fromkeys(ranks["pool"]))
    looks = {f"{kind}, {pool}": look for kind, look in _KINDS.items() for pool in pools}
    hollow = [f"{kind}, {pools[0]}" for kind in _KINDS]
    ranks = ranks.assign(look=ranks["counterpart"] + ", " + ranks["pool"], hollow=ranks["pool"] == pools[0])
    ranks = ranks.assign(place=ranks["scope"].map(list(_SCOPES).index), held=ranks["scope"].map(_SCOPES))
    for ax, (truth, title) in zip(axes, _TRUTHS.items(), strict=True):
        rows = ranks[ranks["truth"] == truth].sort_values("place", kind="stable")
        plot_categories(
            ax, rows, category="held", value="spearman", interval=("low", "high"), hue="look", looks=looks,
            hollow="hollow",
        )  # fmt: skip
        ax.axhline(0, color=MUTED, linewidth=0.7)
        ax.set_ylim(-1.05, 1.05)
        ax.set_ylabel("")
        dress(ax, title=title, note="")
    axes[0].set_ylabel("rank correlation with the proxy's")
    figure.legend(handles=category_handles(looks, hollow), loc="outside lower center", ncols=4)
    seeds = int(table["seed"].nunique())
    grey_title(
        figure,
        f"embedded data, clip-lab; n = {int(table['samples'].max())} images and as many pairs a measurement; {seeds} "
        f"seed{'s' if seeds != 1 else ''}; bars: 95 % over seeds",
    )
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
    """Draw variance, size and GSNR of the CGP by layer, for each variant.

    Args:
        parts: One row per variant, seed and layer.
        variants: In the order of the legend.

    Returns:
        The figure.
    """
    figure = new_figure(TEXT_WIDTH, 3.0)
    axes = figure.subplots(1, 3)
    titles = {"variance": "variance of a vector", "signal": "squared mean of a vector", "gsnr": "proxy GSNR"}
    injected = {name: name.endswith("RSI") for name in variants}
    looks = {
        "hue_order": variants,
        "style_order": variants,
        "palette": {name: OKABE_ITO[_COLORS[name]] for name in variants},
        "markers": {name: "s" if injected[name] else "o" for name in variants},
        "dashes": {name: (3, 1.5) if injected[name] else "" for name in variants},
    }
    for ax, (column, title) in zip(axes, titles.items(), strict=True):
        sns.lineplot(
            parts, x="depth", y=column, hue="variant", style="variant", errorbar="sd", err_style="bars",
            err_kws={"elinewidth": 0.6}, linewidth=1, markersize=3.5, markeredgewidth=0, legend=ax is axes[0], ax=ax,
            **looks,
        )  # fmt: skip
        if column != "gsnr":
            ax.set_yscale("log")
        else:
            ax.axhline(0, color=MUTED, linewidth=0.7)
        ax.set(xlabel="layer", ylabel="")
        dress(ax, title=title, note="")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    axes[0].get_legend().remove()
    grey_title(
        figure,
        f"embedded data, clip-demo; n = {int(parts['pairs'].max())} pairs of real images and self-blended copies; mean "
        f"of {parts['seed'].nunique()} seeds, bars: standard deviation",
    )
    return figure
