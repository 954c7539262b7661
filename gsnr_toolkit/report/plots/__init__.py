"""Figures from report tables: pure functions ``DataFrame -> matplotlib Axes``, drawn with seaborn and matplotlib.

Nothing here may see a model, estimate a number or import `report.report`. Modules are imported on first use, so that
``import gsnr_toolkit.report.plots`` loads neither matplotlib nor pandas.

Example:
    >>> import gsnr_toolkit.report.plots as plots
    >>> "plot_overview" in dir(plots)
    True
"""

from gsnr_toolkit.support.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "plot_cor_by_layer": "gsnr_toolkit.report.plots.layer_profile",
        "plot_gsnr_by_layer": "gsnr_toolkit.report.plots.layer_profile",
        "plot_layer_profile": "gsnr_toolkit.report.plots.layer_profile",
        "plot_trajectory": "gsnr_toolkit.report.plots.trajectory",
        "plot_radius_curve": "gsnr_toolkit.report.plots.radius_curve",
        "plot_attribution": "gsnr_toolkit.report.plots.attribution",
        "plot_overview": "gsnr_toolkit.report.plots.overview",
        "paper_style": "gsnr_toolkit.report.plots.style",
        "save": "gsnr_toolkit.report.plots.style",
    },
)
