"""Models: CLIP's visual towers with a head, by name, or a model of one's own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gsnr_toolkit.models.clip import Detector
    from gsnr_toolkit.models.registry import MODELS, build_model
    from gsnr_toolkit.models.spec import InputSpec, input_spec
    from gsnr_toolkit.models.weights_files import WeightsError

__all__ = ["MODELS", "Detector", "InputSpec", "WeightsError", "build_model", "input_spec"]

# Imported when first used, so that listing the models imports neither torch nor open_clip.
_HOMES = {
    "MODELS": "registry",
    "Detector": "clip",
    "InputSpec": "spec",
    "WeightsError": "weights_files",
    "build_model": "registry",
    "input_spec": "spec",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
