"""A whole sweep as one figure: a panel of AUC against the radius for everything but the data set that varies."""

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from gsnr_toolkit.over_seeds import rows_of, setting_columns, usable_runs
from gsnr_toolkit.plots.auc_radius import describe_runs, plot_auc_radius, short_value
from gsnr_toolkit.plots.style import COLUMN_WIDTH, MUTED, RC, TEXT_WIDTH, in_paper_style, new_figure

if TYPE_CHECKING:
    import pandas as pd

MOST_COLUMNS = 3
PANEL_HEIGHT = 2.2  # inches
LEGEND_HEIGHT = 0.7


@in_paper_style
def plot_sweep(table: "pd.DataFrame", *, rho: float | None = 0.05) -> Figure:
    """Draw a sweep: data sets as colours, and a panel for every combination of the other settings that vary.

    Args:
        table: A sweep's table.
        rho: A radius to mark; None marks none.

    Returns:
        The figure.

    Raises:
        ValueError: A column is missing, or no run at a set radius has come to an end.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"data": "demo-nt", "tuning": ["full", "head"] * 2, "rho": [0.0, 0.0, 0.1, 0.1],
        ...     "seed": 0, "status": "ok", "train_loss": 0.3, "test_auc": 0.9, "test_auc_low": 0.88,
        ...     "test_auc_high": 0.92})
        >>> [ax.get_title("left") for ax in plot_sweep(table).axes]
        ['tuning full', 'tuning head']
    """
    runs = usable_runs(table)
    names = [name for name in setting_columns(table) if name != "data" and runs[name].nunique(dropna=False) > 1]
    if not names:
        figure = new_figure(1.4 * COLUMN_WIDTH, 3.4)
        plot_auc_radius(table, rho=rho, ax=figure.add_subplot())
        return figure
    panels = [dict(zip(names, key, strict=True)) for key, _ in runs.groupby(names, dropna=False, sort=False)]
    columns = 2 if len(panels) == 4 else min(MOST_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    labels = [str(name) for name in dict.fromkeys(runs["data"])] if "data" in runs else []
    figure = new_figure(TEXT_WIDTH, PANEL_HEIGHT * rows + LEGEND_HEIGHT)
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax, at in zip(grid.flat, panels, strict=False):
        title = ", ".join(f"{name} {short_value(value)}" for name, value in at.items())
        plot_auc_radius(rows_of(runs, at), rho=rho, title=title, note=False, legend=False, names=labels, ax=ax)
    for ax in grid.flat[len(panels) :]:
        ax.set_axis_off()
    figure.suptitle(describe_runs(table), fontsize=RC["legend.fontsize"], color=MUTED, x=0.01, ha="left")
    named = {name: handle for ax in grid.flat for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = list(dict.fromkeys([*(name for name in labels if name in named), *named]))
    figure.legend([named[name] for name in order], order, loc="outside lower left", ncols=MOST_COLUMNS)
    return figure
