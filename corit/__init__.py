"""Contrastive Regional Injection Transformer: a detector of forgeries on a frozen CLIP encoder.

A reconstruction from the public caption of one figure; ``docs/corit.md`` says what is the paper's and what is ours.
The package builds on ``gsnr_toolkit`` and may not import ``analyses`` or ``benchmarks``.

>>> import corit
>>> corit.CoRITConfig(num_regions=2).num_regions
2
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gsnr_toolkit.support.lazy import lazy_exports

if TYPE_CHECKING:  # the same names for type checkers and editors
    from corit.model.config import CoRITConfig as CoRITConfig
    from corit.model.counterparts import SelfBlendedCounterparts as SelfBlendedCounterparts
    from corit.model.detector import CoRIT as CoRIT
    from corit.model.explanation import Explanation as Explanation
    from corit.model.head_files import load_detector as load_detector
    from corit.model.head_files import load_head as load_head
    from corit.model.head_files import save_detector as save_detector
    from corit.model.pairs import pair_loss as pair_loss
    from corit.model.shared import calibrate as calibrate
    from corit.model.trained import load_trained as load_trained
    from corit.proxy.check import check_proxy as check_proxy
    from corit.proxy.gsnr import proxy_gsnr as proxy_gsnr
    from corit.training.config import DetectorTraining as DetectorTraining
    from corit.training.train import train_detector as train_detector

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "CoRIT": "corit.model.detector",
        "CoRITConfig": "corit.model.config",
        "DetectorTraining": "corit.training.config",
        "Explanation": "corit.model.explanation",
        "SelfBlendedCounterparts": "corit.model.counterparts",
        "calibrate": "corit.model.shared",
        "check_proxy": "corit.proxy.check",
        "load_detector": "corit.model.head_files",
        "load_head": "corit.model.head_files",
        "load_trained": "corit.model.trained",
        "pair_loss": "corit.model.pairs",
        "proxy_gsnr": "corit.proxy.gsnr",
        "save_detector": "corit.model.head_files",
        "train_detector": "corit.training.train",
    },
)
