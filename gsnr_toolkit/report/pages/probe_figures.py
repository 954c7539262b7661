"""Figures of a probe's page: narrow enough for a phone, unless there are many layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from gsnr_toolkit.report.pages.svg import Picture, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gsnr_toolkit.report.report import Report

_Drawn = tuple[str, str, "Callable[[], Axes]"]

MANY_LAYERS = 40
"""More than these do not fit one column; a wider figure is scrolled on a phone."""

WIDEST = 14.0
"""Inches."""


def probe_pictures(report: Report) -> list[Picture]:
    """Draw a report.

    Args:
        report: With COR or without.

    Returns:
        COR, GSNR, drift and causes by layer at the bottleneck step; COR and GSNR over steps where there are several.
    """
    from gsnr_toolkit.report.plots.style import root_figure

    drawn = [*(_by_layer(report) if report.has_cor else ()), *_over_steps(report)]
    drawn.insert(1 if report.has_cor else 0, _gsnr(report))

    return [
        draw(f"f{number}", title, caption, lambda plot=plot: root_figure(plot()))  # type: ignore[misc]
        for number, (title, caption, plot) in enumerate(drawn)
    ]


def _gsnr(report: Report) -> _Drawn:
    from gsnr_toolkit.report.plots.layer_profile import plot_gsnr_by_layer

    def plot() -> Axes:
        return plot_gsnr_by_layer(report.layers, report.settings, step=report.bottleneck.step, ax=_room(report))

    return "GSNR by layer", "A layer has a signal where its whole interval is above 0.", plot


def _room(report: Report) -> Axes | None:
    """Axes wide enough for every layer; None leaves the width to the figure."""
    from gsnr_toolkit.report.plots.labels import extra_height
    from gsnr_toolkit.report.plots.style import COLUMN_WIDTH, new_figure, paper_style

    groups = list(dict.fromkeys(report.layers["group"]))
    if len(groups) <= MANY_LAYERS:
        return None
    with paper_style():
        width = min(WIDEST, COLUMN_WIDTH * len(groups) / MANY_LAYERS)
        return new_figure(width, 2.7 + extra_height(groups)).add_subplot()


def _by_layer(report: Report) -> list[_Drawn]:
    from gsnr_toolkit.report.plots.attribution import plot_attribution
    from gsnr_toolkit.report.plots.layer_profile import plot_cor_by_layer
    from gsnr_toolkit.report.plots.radius_curve import plot_radius_curve

    layers, settings, step = report.layers, report.settings, report.bottleneck.step
    drift = partial(plot_radius_curve, report.drift, layers, settings, step=step, totals=report.totals)
    return [
        (
            "COR by layer",
            "In the red zone a layer's COR is below ρ. Hollow marks at the edge have no COR; the table says why.",
            lambda: plot_cor_by_layer(layers, settings, step=step, ax=_room(report)),
        ),
        (
            "Drift curve",
            "Where a curve first crosses 1, SAM's step has turned a gradient by its own length: that radius is COR.",
            drift,
        ),
        (
            "Why layers differ",
            "COR against the median layer's, taken apart: a weak signal, curvature out of line, a large gradient.",
            lambda: plot_attribution(layers, settings, step=step, ax=_room(report)),
        ),
    ]


def _over_steps(report: Report) -> list[_Drawn]:
    if report.layers["step"].nunique() < 2:
        return []
    from gsnr_toolkit.report.plots.trajectory import plot_trajectory

    bottleneck = report.bottleneck if report.has_cor else None
    found = report.cor == report.cor
    caption = "The diamond is the step of the smallest COR." if found else "No step has a COR."
    plot = partial(plot_trajectory, report.layers, report.settings, totals=report.totals, bottleneck=bottleneck)
    if not report.has_cor:
        return [("GSNR over steps", "By training step.", partial(plot, quantity="gsnr"))]
    return [(f"{name.upper()} over steps", caption, partial(plot, quantity=name)) for name in ("cor", "gsnr")]
