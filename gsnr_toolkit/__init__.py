"""Layer-wise GSNR and critical optimization radius of any PyTorch model, with honest uncertainty.

>>> import gsnr_toolkit
>>> gsnr_toolkit.estimate_cor.__name__
'estimate_cor'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "estimate_cor": "gsnr_toolkit.probing.estimate",
    "estimate_gsnr": "gsnr_toolkit.probing.estimate",
    "probe": "gsnr_toolkit.probing.estimate",
    "iter_probe": "gsnr_toolkit.probing.estimate",
    "Report": "gsnr_toolkit.report.report",
    "ProbeOptions": "gsnr_toolkit.inputs.options",
    "ProbeError": "gsnr_toolkit.errors",
    "ProbeWarning": "gsnr_toolkit.errors",
    "Moments": "gsnr_toolkit.moments.by_parameter",
    "SAM": "gsnr_toolkit.optim.sam",
    "AutoRho": "gsnr_toolkit.training.auto_rho",
    "build_model": "gsnr_toolkit.models.registry",
    "open_dataset": "gsnr_toolkit.data.registry",
    "probe_loader": "gsnr_toolkit.data.loaders",
    "Recorder": "gsnr_toolkit.probing.recorder",
    "TrainConfig": "gsnr_toolkit.training.config",
    "collapse_radii": "gsnr_toolkit.sweeps.collapse",
    "sweep": "gsnr_toolkit.sweeps.sweep",
    "run_training": "gsnr_toolkit.training.run",
}

__all__ = [
    "SAM",
    "AutoRho",
    "Moments",
    "ProbeError",
    "ProbeOptions",
    "ProbeWarning",
    "Recorder",
    "Report",
    "TrainConfig",
    "__version__",
    "build_model",
    "collapse_radii",
    "estimate_cor",
    "estimate_gsnr",
    "iter_probe",
    "open_dataset",
    "probe",
    "probe_loader",
    "run_training",
    "sweep",
]

if TYPE_CHECKING:
    from gsnr_toolkit.data.loaders import probe_loader
    from gsnr_toolkit.data.registry import open_dataset
    from gsnr_toolkit.errors import ProbeError, ProbeWarning
    from gsnr_toolkit.inputs.options import ProbeOptions
    from gsnr_toolkit.models.registry import build_model
    from gsnr_toolkit.moments.by_parameter import Moments
    from gsnr_toolkit.optim.sam import SAM
    from gsnr_toolkit.probing.estimate import estimate_cor, estimate_gsnr, iter_probe, probe
    from gsnr_toolkit.probing.recorder import Recorder
    from gsnr_toolkit.report.report import Report
    from gsnr_toolkit.sweeps.collapse import collapse_radii
    from gsnr_toolkit.sweeps.sweep import sweep
    from gsnr_toolkit.training.auto_rho import AutoRho
    from gsnr_toolkit.training.config import TrainConfig
    from gsnr_toolkit.training.run import run_training


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: ``import gsnr_toolkit`` itself stays fast."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
