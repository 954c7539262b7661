"""Figures of a probe's page. They fit the width of a phone, unless there are many layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from gsnr_toolkit.report.pages.svg import Picture, draw
from gsnr_toolkit.report.plots.attribution import plot_attribution
from gsnr_toolkit.report.plots.labels import extra_height
from gsnr_toolkit.report.plots.layer_profile import plot_cor_by_layer, plot_gsnr_by_layer
from gsnr_toolkit.report.plots.radius_curve import plot_radius_curve
from gsnr_toolkit.report.plots.style import COLUMN_WIDTH, new_figure, paper_style, root_figure
from gsnr_toolkit.report.plots.trajectory import plot_trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gsnr_toolkit.report.like import ReportLike

_Plot = tuple[str, str, "Callable[[], Axes]"]

MANY_LAYERS = 40
"""More layers than these need a figure wider than one column, which is scrolled on a phone."""

WIDEST = 14.0
"""Inches."""


def probe_pictures(report: ReportLike) -> list[Picture]:
    """Draw COR, GSNR, drift and causes by layer at the bottleneck step, and COR and GSNR over several steps."""
    plots = [*(_by_layer(report) if report.has_cor else [_gsnr(report)]), *_over_steps(report)]
    return [
        draw(f"f{index}", title, caption, lambda plot=plot: root_figure(plot()))  # type: ignore[misc]
        for index, (title, caption, plot) in enumerate(plots)
    ]


def _gsnr(report: ReportLike) -> _Plot:
    step = report.bottleneck.step
    return (
        "GSNR by layer",
        "A layer has a signal where its whole interval is above 0.",
        lambda: plot_gsnr_by_layer(report.layers, report.settings, step=step, ax=_wide_axes(report)),
    )


def _wide_axes(report: ReportLike) -> Axes | None:
    """Return axes wide enough for every layer; None leaves the width to the figure."""
    groups = list(dict.fromkeys(report.layers["group"]))
    if len(groups) <= MANY_LAYERS:
        return None
    with paper_style():
        width = min(WIDEST, COLUMN_WIDTH * len(groups) / MANY_LAYERS)
        return new_figure(width, 2.7 + extra_height(groups)).add_subplot()


def _by_layer(report: ReportLike) -> list[_Plot]:
    layers, settings, step = report.layers, report.settings, report.bottleneck.step
    return [
        (
            "COR by layer",
            "In the red zone a layer's COR is below ρ. Hollow marks at the edge have no COR; the table says why.",
            lambda: plot_cor_by_layer(layers, settings, step=step, ax=_wide_axes(report)),
        ),
        _gsnr(report),
        (
            "Drift curve",
            "Where a curve first crosses 1, SAM's step has turned a gradient by its own length: that radius is COR.",
            partial(plot_radius_curve, report.drift, layers, settings, step=step, totals=report.totals),
        ),
        (
            "Why layers differ",
            "COR against the median layer's, taken apart: a weak signal, curvature out of line, a large gradient.",
            lambda: plot_attribution(layers, settings, step=step, ax=_wide_axes(report)),
        ),
    ]


def _over_steps(report: ReportLike) -> list[_Plot]:
    if report.layers["step"].nunique() < 2:
        return []
    bottleneck = report.bottleneck if report.has_cor else None
    plot = partial(plot_trajectory, report.layers, report.settings, totals=report.totals, bottleneck=bottleneck)
    if not report.has_cor:
        return [("GSNR over steps", "By training step.", partial(plot, quantity="gsnr"))]
    caption = "The diamond is the step of the smallest COR." if report.cor == report.cor else "No step has a COR."
    return [(f"{name.upper()} over steps", caption, partial(plot, quantity=name)) for name in ("cor", "gsnr")]
