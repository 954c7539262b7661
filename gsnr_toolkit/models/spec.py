"""The images that a model expects: their size, and the means and standard deviations of the normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gsnr_toolkit.data.transforms import CLIP_MEAN, CLIP_STD
from gsnr_toolkit.errors import ProbeError

__all__ = ["InputSpec", "input_spec"]


@dataclass(frozen=True)
class InputSpec:
    """Side of the square images in pixels, and the normalisation by channel, of RGB values in [0, 1]."""

    image_size: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD


def input_spec(model: nn.Module, image_size: int | None = None) -> InputSpec:
    """Find the image size and the normalisation that a model expects.

    The sources are, in this order: the model's attributes ``image_size``, ``mean`` and ``std``, which a
    :class:`gsnr_toolkit.models.clip.Detector` has and any model may have; timm's ``pretrained_cfg``; the
    ``config.image_size`` of Hugging Face. The default normalisation is CLIP's.

    Args:
        model: Any model.
        image_size: Overrides the size of the model.

    Returns:
        Size and normalisation.

    Raises:
        ProbeError: If no size is found and none is given.

    >>> model = nn.Conv2d(3, 1, 8)
    >>> model.image_size, model.mean, model.std = 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    >>> input_spec(model)
    InputSpec(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    """
    config = getattr(model, "pretrained_cfg", None)
    config = config if isinstance(config, Mapping) else {}
    huggingface = getattr(model, "config", None)
    candidates = (
        image_size,
        getattr(model, "image_size", None),
        (config.get("input_size") or (None,))[-1],
        getattr(huggingface, "image_size", None),
        getattr(getattr(huggingface, "vision_config", None), "image_size", None),
    )
    size = next((candidate for candidate in candidates if candidate is not None), None)
    if size is None:
        raise ProbeError(
            f"expected {type(model).__name__} to have an image size, but found none; set model.image_size (and "
            "model.mean, model.std), or pass image_size"
        )
    mean = _channels(getattr(model, "mean", None)) or _channels(config.get("mean")) or CLIP_MEAN
    std = _channels(getattr(model, "std", None)) or _channels(config.get("std")) or CLIP_STD
    return InputSpec(_side(size), mean, std)


def _side(size: Any) -> int:
    sides = set(size) if isinstance(size, (tuple, list)) else {size}
    if len(sides) != 1:
        raise ProbeError(f"expected a square image size, but the model has {tuple(size)}; pass image_size=S for S x S")
    return int(sides.pop())


def _channels(values: Any) -> tuple[float, ...] | None:
    """Return three numbers, or None, since ``mean`` or ``std`` may also be a method or a single number."""
    if isinstance(values, Tensor):
        values = values.flatten().tolist()
    if not isinstance(values, (tuple, list)) or len(values) != 3:
        return None
    return tuple(float(value) for value in values)
