"""Estimates with stored intervals by category, several methods side by side."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
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
    interval: tuple[str, str] | None = None,
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
        interval: Columns of the lower and the upper ends, if any; a row with a NaN end gets no interval.
        hue: Column that tells the marks of one category apart.
        looks: Value of `hue` to colour and marker, in the order in which the marks stand side by side.
        hollow: Column of Booleans: which marks to leave white inside.
        horizontal: Whether the values run along x.
    """
    across, along = ("y", "x") if horizontal else ("x", "y")
    names = [name for name in looks if name in set(table[hue])]
    scales = {
        "color": so.Nominal({name: looks[name][0] for name in names}, order=names),
        "marker": so.Nominal({name: looks[name][1] for name in names}, order=names),
        "fill": so.Boolean({True: True, False: False}),
    }
    marks = {"color": hue, "marker": hue}
    if hollow:
        table, marks = table.assign(filled=~table[hollow]), {**marks, "fill": "filled"}
    aside = so.Dodge(by=["color"])
    plot = so.Plot(table, **{across: category, along: value})
    if interval:
        ends = {f"{along}min": interval[0], f"{along}max": interval[1]}
        plot = plot.add(so.Range(linewidth=0.8), aside, color=hue, legend=False, **ends)
    plot = plot.add(so.Dot(pointsize=4.5), aside, legend=False, **marks)
    plot.scale(**scales).theme(RC).on(ax).plot()
    # Seaborn leaves hollow marks transparent and under the intervals, which would cross them.
    dots = ax.collections[-1]
    faces = np.asarray(dots.get_facecolor())
    faces[faces[:, 3] == 0] = 1.0
    dots.set(facecolor=faces, zorder=4)
    ax.set(**{f"{across}label": ""})
    ax.label_outer()  # seaborn labels each panel, even if panels share an axis


def category_handles(looks: Mapping[str, tuple[str, str]], hollow: Collection[str] = ()) -> list[Line2D]:
    """Return one legend entry per name, white inside if the name is in `hollow`."""
    return [
        Line2D([], [], color=color, marker=marker, label=name, linestyle="none", markersize=4,
               markerfacecolor="white" if name in hollow else color)
        for name, (color, marker) in looks.items()
    ]  # fmt: skip
