"""Layer-wise GSNR and critical optimization radius of any PyTorch model, with honest uncertainty.

Nothing here may import ``corit``, ``analyses`` or ``benchmarks``.

>>> import gsnr_toolkit
>>> gsnr_toolkit.estimate_cor.__name__
'estimate_cor'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gsnr_toolkit.support.lazy import lazy_exports

__version__ = "0.2.0"

if TYPE_CHECKING:  # the same names for type checkers and editors
    from gsnr_toolkit.data.loaders import probe_loader as probe_loader
    from gsnr_toolkit.data.registry import open_dataset as open_dataset
    from gsnr_toolkit.errors import ProbeError as ProbeError
    from gsnr_toolkit.errors import ProbeWarning as ProbeWarning
    from gsnr_toolkit.inputs.options import ProbeOptions as ProbeOptions
    from gsnr_toolkit.inputs.plateau import plateau_loss as plateau_loss
    from gsnr_toolkit.models.registry import build_model as build_model
    from gsnr_toolkit.moments.by_parameter import Moments as Moments
    from gsnr_toolkit.optim.margin import MarginRadius as MarginRadius
    from gsnr_toolkit.optim.sam import SAM as SAM
    from gsnr_toolkit.probing.estimate import estimate_cor as estimate_cor
    from gsnr_toolkit.probing.estimate import estimate_gsnr as estimate_gsnr
    from gsnr_toolkit.probing.estimate import iter_probe as iter_probe
    from gsnr_toolkit.probing.estimate import probe as probe
    from gsnr_toolkit.probing.recorder import Recorder as Recorder
    from gsnr_toolkit.report.report import Report as Report
    from gsnr_toolkit.search.find import find_rho as find_rho
    from gsnr_toolkit.search.result import RhoSearch as RhoSearch
    from gsnr_toolkit.sweeps.collapse import collapse_radii as collapse_radii
    from gsnr_toolkit.sweeps.sweep import sweep as sweep
    from gsnr_toolkit.training.auto_rho import AutoRho as AutoRho
    from gsnr_toolkit.training.config import TrainConfig as TrainConfig
    from gsnr_toolkit.training.run import run_training as run_training

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
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
        "MarginRadius": "gsnr_toolkit.optim.margin",
        "plateau_loss": "gsnr_toolkit.inputs.plateau",
        "AutoRho": "gsnr_toolkit.training.auto_rho",
        "build_model": "gsnr_toolkit.models.registry",
        "open_dataset": "gsnr_toolkit.data.registry",
        "probe_loader": "gsnr_toolkit.data.loaders",
        "Recorder": "gsnr_toolkit.probing.recorder",
        "TrainConfig": "gsnr_toolkit.training.config",
        "find_rho": "gsnr_toolkit.search.find",
        "RhoSearch": "gsnr_toolkit.search.result",
        "collapse_radii": "gsnr_toolkit.sweeps.collapse",
        "sweep": "gsnr_toolkit.sweeps.sweep",
        "run_training": "gsnr_toolkit.training.run",
    },
    ready=("__version__",),
)
