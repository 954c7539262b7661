"""Contrastive Regional Injection Transformer: a detector of forgeries on a frozen CLIP encoder.

A reconstruction from the public caption of one figure; ``docs/corit.md`` says what is the paper's and what is ours.

>>> import corit
>>> corit.CoRITConfig(num_regions=2).num_regions
2
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
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
}

__all__ = [
    "CoRIT",
    "CoRITConfig",
    "DetectorTraining",
    "Explanation",
    "SelfBlendedCounterparts",
    "calibrate",
    "check_proxy",
    "load_detector",
    "load_head",
    "load_trained",
    "pair_loss",
    "proxy_gsnr",
    "save_detector",
    "train_detector",
]

if TYPE_CHECKING:
    from corit.model.config import CoRITConfig
    from corit.model.counterparts import SelfBlendedCounterparts
    from corit.model.detector import CoRIT
    from corit.model.explanation import Explanation
    from corit.model.head_files import load_detector, load_head, save_detector
    from corit.model.pairs import pair_loss
    from corit.model.shared import calibrate
    from corit.model.trained import load_trained
    from corit.proxy.check import check_proxy
    from corit.proxy.gsnr import proxy_gsnr
    from corit.training.config import DetectorTraining
    from corit.training.train import train_detector


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: ``import corit`` itself stays fast."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
