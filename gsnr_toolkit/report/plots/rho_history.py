"""The radius of ``rho="auto"`` along a run, below the loss and the gradient norm that it follows from."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from gsnr_toolkit.report.plots.frames import require_columns
from gsnr_toolkit.report.plots.style import COLUMN_WIDTH, MUTED, OKABE_ITO, in_paper_style, new_figure

_PANELS = (
    ("loss", "loss", "blue"),
    ("grad_norm", "gradient norm", "purple"),
    ("rho", r"radius $\rho$", "vermillion"),
)


@in_paper_style
def plot_rho_history(history: pd.DataFrame) -> Figure:
    """Draw loss, gradient norm and radius over the steps of a run with ``rho="auto"``.

    Args:
        history: ``optimizer.rho_history``, one row per step.

    Returns:
        A figure of three panels above each other. The loss of the plateau is a dashed line; gradient norms are on a
        logarithmic scale. A radius of 0 is a plain step of the base optimizer.

    Raises:
        ValueError: If a column is missing, or there is no row.

    >>> rows = {"step": [0, 1], "loss": [0.7, 0.6], "plateau_loss": 0.7, "grad_norm": [0.1, 0.2], "rho": [0.0, 0.1]}
    >>> len(plot_rho_history(pd.DataFrame(rows)).axes)
    3
    """
    require_columns(history, ("step", "loss", "plateau_loss", "grad_norm", "rho"), "optimizer.rho_history")
    figure = new_figure(COLUMN_WIDTH, 3.4)
    panels = figure.subplots(3, 1, sharex=True)
    for ax, (column, title, colour) in zip(panels, _PANELS, strict=True):
        sns.lineplot(history, x="step", y=column, color=OKABE_ITO[colour], ax=ax, errorbar=None, estimator=None)
        ax.set(ylabel=title, xlabel="")
    sns.lineplot(history, x="step", y="plateau_loss", color=MUTED, linestyle="--", ax=panels[0], estimator=None)
    panels[0].set_ylabel("loss")
    panels[0].legend(panels[0].lines[1:], ["best constant prediction"])
    panels[1].set_yscale("log")
    panels[2].set_ylim(bottom=0)
    panels[2].set_xlabel("step")
    return figure
