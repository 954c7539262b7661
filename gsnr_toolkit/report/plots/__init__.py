"""Figures from report tables: pure functions ``DataFrame -> matplotlib Axes``, drawn with seaborn and matplotlib.

Nothing here may see a model, estimate a number or import `report.report`. Modules are imported on first use, so that
``import gsnr_toolkit.report.plots`` loads neither matplotlib nor pandas.

Example:
    >>> import gsnr_toolkit.report.plots as plots
    >>> "plot_overview" in dir(plots)
    True
"""

from importlib import import_module
from typing import Any

_TARGETS = {
    "plot_cor_by_layer": "layer_profile",
    "plot_gsnr_by_layer": "layer_profile",
    "plot_layer_profile": "layer_profile",
    "plot_trajectory": "trajectory",
    "plot_radius_curve": "radius_curve",
    "plot_attribution": "attribution",
    "plot_overview": "overview",
    "paper_style": "style",
    "save": "style",
}

__all__ = sorted(_TARGETS)


def __getattr__(name: str) -> Any:
    """Return a public name, importing its module on first use.

    Raises:
        AttributeError: There is no such name.
    """
    if name not in _TARGETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_TARGETS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_TARGETS])
