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
    "CoRIT": "corit.detector",
    "CoRITConfig": "corit.config",
    "DetectorTraining": "corit.train_config",
    "Explanation": "corit.explanation",
    "SelfBlendedCounterparts": "corit.counterparts",
    "calibrate": "corit.shared",
    "check_proxy": "corit.proxy_check",
    "load_detector": "corit.weights",
    "load_head": "corit.weights",
    "load_trained": "corit.trained",
    "pair_loss": "corit.pairs",
    "proxy_gsnr": "corit.proxy",
    "save_detector": "corit.weights",
    "train_detector": "corit.train",
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
    from corit.config import CoRITConfig
    from corit.counterparts import SelfBlendedCounterparts
    from corit.detector import CoRIT
    from corit.explanation import Explanation
    from corit.pairs import pair_loss
    from corit.proxy import proxy_gsnr
    from corit.proxy_check import check_proxy
    from corit.shared import calibrate
    from corit.train import train_detector
    from corit.train_config import DetectorTraining
    from corit.trained import load_trained
    from corit.weights import load_detector, load_head, save_detector


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: ``import corit`` itself stays fast."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
