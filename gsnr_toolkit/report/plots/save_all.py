"""All figures of a report, as files."""

from pathlib import Path
from typing import TYPE_CHECKING

from gsnr_toolkit.report.plots.attribution import plot_attribution
from gsnr_toolkit.report.plots.layer_profile import plot_gsnr_by_layer, plot_layer_profile
from gsnr_toolkit.report.plots.overview import plot_overview
from gsnr_toolkit.report.plots.radius_curve import plot_radius_curve
from gsnr_toolkit.report.plots.style import root_figure, save
from gsnr_toolkit.report.plots.trajectory import plot_trajectory

if TYPE_CHECKING:
    from gsnr_toolkit.report.like import ReportLike


def save_plots(report: "ReportLike", folder: Path) -> list[Path]:
    """Draw a report and write each figure as PNG and PDF.

    Args:
        report: The report.
        folder: Folder of the figures.

    Returns:
        The files: ``overview``, ``layers``, ``drift``, ``attribution`` and, for several steps, ``trajectory_gsnr``
        and ``trajectory_cor``; ``layers`` alone for a report without COR.
    """
    layers, settings, totals, step = report.layers, report.settings, report.totals, report.bottleneck.step
    if not report.has_cor:
        return save(root_figure(plot_gsnr_by_layer(layers, settings, step=step)), folder / "layers")
    figures = {
        "overview": plot_overview(layers, totals, report.drift, settings, bottleneck=report.bottleneck),
        "layers": plot_layer_profile(layers, settings, step=step),
        "drift": root_figure(plot_radius_curve(report.drift, layers, settings, step=step, totals=totals)),
        "attribution": root_figure(plot_attribution(layers, settings, step=step)),
    }
    if layers["step"].nunique() > 1:
        for quantity in ("gsnr", "cor"):
            axes = plot_trajectory(layers, settings, quantity=quantity, totals=totals, bottleneck=report.bottleneck)
            figures[f"trajectory_{quantity}"] = root_figure(axes)
    return [path for name, figure in figures.items() for path in save(figure, folder / name)]
