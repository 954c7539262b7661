"""Models by name: CLIP's visual towers with a linear head, their weights, and the images that a model expects.

``demo_training`` pretrains the embedded CLIP. Code that probes, fine-tunes or scores a model does not belong here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gsnr_toolkit.support.lazy import lazy_exports

if TYPE_CHECKING:  # the same names for type checkers and editors
    from gsnr_toolkit.models.clip import Detector as Detector
    from gsnr_toolkit.models.registry import MODELS as MODELS
    from gsnr_toolkit.models.registry import build_model as build_model
    from gsnr_toolkit.models.spec import InputSpec as InputSpec
    from gsnr_toolkit.models.spec import input_spec as input_spec
    from gsnr_toolkit.models.weights_files import WeightsError as WeightsError

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "MODELS": "gsnr_toolkit.models.registry",
        "Detector": "gsnr_toolkit.models.clip",
        "InputSpec": "gsnr_toolkit.models.spec",
        "WeightsError": "gsnr_toolkit.models.weights_files",
        "build_model": "gsnr_toolkit.models.registry",
        "input_spec": "gsnr_toolkit.models.spec",
    },
)
