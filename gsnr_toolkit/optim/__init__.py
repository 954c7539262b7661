"""SAM and ASAM as torch optimizers, radius and learning-rate schedules, micro-batches, and running statistics.

What needs a measurement does not belong here: :class:`gsnr_toolkit.AutoRho`, whose radius follows COR, is in
``training``.
"""

from gsnr_toolkit.optim.margin import MarginRadius
from gsnr_toolkit.optim.rho import Constant, Cosine, Linear, RadiusController, RhoSchedule, WarmStart
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.optim.statistics import keep_running_stats
from gsnr_toolkit.optim.step import sam_step

__all__ = [
    "SAM",
    "Constant",
    "Cosine",
    "Linear",
    "MarginRadius",
    "RadiusController",
    "RhoSchedule",
    "WarmStart",
    "keep_running_stats",
    "sam_step",
]
