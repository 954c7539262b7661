"""From a decoded image to the normalised square tensor that an encoder reads: one definition for all data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from gsnr_toolkit.data.checks import check_choice
from gsnr_toolkit.data.images import to_rgb

__all__ = ["CLIP_MEAN", "CLIP_STD", "FITS", "fit_square", "image_to_tensor"]

#: Channel means and standard deviations of the training data of OpenAI's CLIP (RGB in [0, 1]).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

#: Ways to make an image square: see :func:`fit_square`.
FITS = ("shortest", "squash", "crop")

_LONG = 32
"""A picture longer than this many widths is cut to its middle before it is resampled."""


def fit_square(image: Image.Image, size: int, fit: str = "shortest") -> Image.Image:
    """Bring an image to ``size x size`` pixels.

    Resampling is a low-pass filter and may remove the traces that a forensic model reads. An image that already has
    the right size is therefore never resampled, whatever ``fit`` is.

    Args:
        image: Any image; it is converted to RGB.
        size: Side of the square, in pixels.
        fit: ``"shortest"`` scales the shorter side to ``size`` (bicubic, antialiased) and crops the centre, as
            CLIP does. ``"squash"`` scales both sides, whatever the aspect ratio. ``"crop"`` crops the centre without
            resampling, as in the evaluation of Ojha et al. (UniversalFakeDetect); an image smaller than the square
            is first enlarged as by ``"shortest"``.

    Returns:
        An RGB image of ``size x size`` pixels.

    Raises:
        ValueError: If ``fit`` is none of the three.

    >>> from PIL import Image
    >>> fit_square(Image.new("L", (40, 30)), 16).size
    (16, 16)
    """
    check_choice("fit", fit, FITS, ValueError)
    image = to_rgb(image)
    if image.size == (size, size):
        return image
    if fit == "squash":
        return image.resize((size, size), Image.Resampling.BICUBIC)
    shortest = min(image.size)
    if max(image.size) > _LONG * shortest:  # resampling all of it would take memory without bound
        image = image.crop(_middle(image.size, shortest * _LONG))
    if fit == "shortest" or shortest < size:
        width, height = (max(size, round(side * size / shortest)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image.crop(_middle(image.size, size))


def _middle(sides: tuple[int, int], most: int) -> tuple[int, int, int, int]:
    """The box that is centred and at most so many pixels wide and high."""
    width, height = (min(side, most) for side in sides)
    left, top = (sides[0] - width) // 2, (sides[1] - height) // 2
    return left, top, left + width, top + height


def image_to_tensor(
    image: Image.Image | np.ndarray[Any, Any],
    image_size: int,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    fit: str = "shortest",
) -> torch.Tensor:
    """Resize, scale to [0, 1] and normalise: ``(pixel / 255 - mean) / std`` by channel.

    Args:
        image: A PIL image, or a uint8 array ``(H, W, 3)`` or ``(H, W)``.
        image_size: Side of the square, in pixels.
        mean: Mean by channel, of RGB values in [0, 1].
        std: Standard deviation by channel, of the same values.
        fit: See :func:`fit_square`.

    Returns:
        A float32 tensor ``(3, image_size, image_size)``.

    Raises:
        TypeError: If ``image`` is an array of another dtype.

    >>> grey = np.full((8, 8, 3), 255, dtype=np.uint8)
    >>> image_to_tensor(grey, 4, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).unique()
    tensor([1.])
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise TypeError(
                f"expected an image of dtype uint8 with values 0 to 255, got {image.dtype}; convert it, with "
                "(image * 255).round().astype('uint8') from values in [0, 1]"
            )
        image = Image.fromarray(image)
    pixels = np.array(fit_square(image, image_size, fit))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32).div_(255.0)
    return tensor.sub_(_channels(mean)).div_(_channels(std)).contiguous()


def _channels(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(tuple(values), dtype=torch.float32).view(3, 1, 1)
