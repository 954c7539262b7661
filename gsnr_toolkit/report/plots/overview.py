"""A report in one figure: which layers lie in the collapse zone, at which step, and the drift that puts them there."""

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from gsnr_toolkit.report.plots.frames import (
    BottleneckLike,
    Settings,
    default_step,
    find_bottleneck,
    read_setting,
    require_columns,
    sample_note,
)
from gsnr_toolkit.report.plots.labels import extra_height
from gsnr_toolkit.report.plots.layer_profile import plot_cor_by_layer, plot_gsnr_by_layer
from gsnr_toolkit.report.plots.radius_curve import plot_radius_curve
from gsnr_toolkit.report.plots.style import MUTED, TEXT_WIDTH, in_paper_style, new_figure
from gsnr_toolkit.report.plots.trajectory import plot_trajectory

if TYPE_CHECKING:
    import pandas as pd


@in_paper_style
def plot_overview(
    layers: "pd.DataFrame",
    totals: "pd.DataFrame",
    drift: "pd.DataFrame",
    settings: Settings,
    *,
    bottleneck: BottleneckLike | None = None,
) -> Figure:
    """Draw a report on one page width: COR by layer, COR over steps, drift curve.

    The first and the last panel show the bottleneck step. A report of a single step has no trajectory; its middle
    panel shows GSNR by layer. The title names model and data; the caption names data, number of samples and interval
    level.

    Args:
        layers: ``report.layers``.
        totals: ``report.totals``.
        drift: ``report.drift``.
        settings: ``report.settings``; needs ``model``, ``data``, ``rho``, ``confidence``; ``caption`` says which data.
        bottleneck: ``report.bottleneck``; None finds it in the tables.

    Returns:
        A figure 7 inches wide with three panels.
    """
    require_columns(layers, ("step", "group", "cor", "status"), "plot_overview")
    if bottleneck is None:
        bottleneck = find_bottleneck(layers, totals)
    step = default_step(layers) if bottleneck is None else bottleneck.step
    figure = new_figure(TEXT_WIDTH, 3.4 + extra_height(list(layers["group"])))
    profile, middle, curve = figure.subplots(1, 3, width_ratios=(1, 1, 1.12))
    plot_cor_by_layer(layers, settings, step=step, note=False, ax=profile)
    if layers["step"].nunique() > 1:
        plot_trajectory(layers, settings, totals=totals, bottleneck=bottleneck, depth_key=False, note=False, ax=middle)
    else:
        plot_gsnr_by_layer(layers, settings, step=step, note=False, ax=middle)
    plot_radius_curve(drift, layers, settings, step=step, totals=totals, note=False, ax=curve)
    data = read_setting(settings, "data")
    figure.suptitle(f"{read_setting(settings, 'model')} on {data}", fontsize=9, x=0.01, ha="left")
    caption = f"Data: {settings.get('caption') or data}. {sample_note(layers, settings)}."
    figure.supxlabel(caption, fontsize=6.5, color=MUTED, x=0.01, ha="left")
    return figure
