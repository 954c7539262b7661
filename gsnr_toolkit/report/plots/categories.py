"""Estimates with stored intervals by category, several methods side by side."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gsnr_toolkit.report.plots.style import RC

if TYPE_CHECKING:
    import pandas as pd


def plot_categories(
    ax: Axes,
    table: "pd.DataFrame",
    *,
    category: str,
    value: str,
    interval: tuple[str, str],
    hue: str,
    looks: Mapping[str, tuple[str, str]],
    hollow: str | None = None,
    horizontal: bool = False,
) -> None:
    """Draw a mark and an interval for each row, the marks of one category side by side.

    Args:
        ax: Axes.
        table: One row per category and hue. Categories are drawn in order of appearance, from the top if horizontal.
        category: Column of the categories.
        value: Column of the estimates.
        interval: Columns of the lower and the upper ends; a NaN end draws no interval.
        hue: Column that tells the marks of one category apart.
        looks: Value of `hue` to colour and marker, in the order in which the marks stand side by side.
        hollow: Column of Booleans: which marks to leave white inside.
        horizontal: Whether the values run along x.
    """
    across, along = ("y", "x") if horizontal else ("x", "y")
    names = [name for name in looks if name in set(table[hue])]
    low, high = interval
    scales = {
        "color": so.Nominal({name: looks[name][0] for name in names}, order=names),
        "marker": so.Nominal({name: looks[name][1] for name in names}, order=names),
        "fill": so.Boolean(),
    }
    marks = {"color": hue, "marker": hue} | ({"fill": hollow} if hollow else {})
    aside = so.Dodge(by=["color"])
    plot = so.Plot(table, **{across: category, along: value})
    plot = plot.add(so.Range(linewidth=0.8), aside, color=hue, legend=False, **{f"{along}min": low, f"{along}max": high})
    plot = plot.add(so.Dot(pointsize=4), aside, legend=False, **marks)
    plot.scale(**scales).theme(RC).on(ax).plot()


def category_handles(looks: Mapping[str, tuple[str, str]]) -> list[Line2D]:
    """Return one legend entry per name."""
    return [
        Line2D([], [], linestyle="none", color=color, marker=marker, markersize=4, label=name)
        for name, (color, marker) in looks.items()
    ]
