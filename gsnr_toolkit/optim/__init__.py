"""SAM and ASAM as torch optimizers; radius schedules; batches cut into micro-batches; running statistics.

:class:`gsnr_toolkit.AutoRho`, a radius that follows the measured COR, stands on a higher floor.
"""

from gsnr_toolkit.optim.rho import Constant, Cosine, Linear, RadiusController, RhoSchedule, WarmStart
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.optim.statistics import keep_running_stats
from gsnr_toolkit.optim.step import sam_step

__all__ = [
    "SAM",
    "Constant",
    "Cosine",
    "Linear",
    "RadiusController",
    "RhoSchedule",
    "WarmStart",
    "keep_running_stats",
    "sam_step",
]
