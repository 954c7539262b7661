"""What images a model wants: their size, and the means and standard deviations they are normalised with."""

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
    """Find out what images a model wants.

    Read, in this order, from: the model's own ``image_size``, ``mean`` and ``std`` (a
    :class:`gsnr_toolkit.models.clip.Detector` has them, and a model of one's own may); timm's
    ``pretrained_cfg``; the ``config.image_size`` of Hugging Face. CLIP's normalisation where none is given.

    Args:
        model: Any model.
        image_size: Overrides the size found.

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
            f"which image size {type(model).__name__} wants is not known: set model.image_size (and "
            "model.mean, model.std), or give image_size"
        )
    mean = _channels(getattr(model, "mean", None)) or _channels(config.get("mean")) or CLIP_MEAN
    std = _channels(getattr(model, "std", None)) or _channels(config.get("std")) or CLIP_STD
    return InputSpec(_side(size), mean, std)


def _side(size: Any) -> int:
    sides = set(size) if isinstance(size, (tuple, list)) else {size}
    if len(sides) != 1:
        raise ProbeError(f"expected a square image size, but the model wants {tuple(size)}: pass image_size")
    return int(sides.pop())


def _channels(values: Any) -> tuple[float, ...] | None:
    """Return three numbers, or None for anything else that happens to have the name."""
    if isinstance(values, Tensor):
        values = values.flatten().tolist()
    if not isinstance(values, (tuple, list)) or len(values) != 3:
        return None
    return tuple(float(value) for value in values)
