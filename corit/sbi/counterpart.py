"""Self-blended counterparts of image tensors at test time: the same pixels always give the same counterpart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corit.sbi.blend import self_blend
from corit.sbi.faces import Face
from corit.sbi.recipe import SOURCE_ONLY, Recipe
from gsnr_toolkit.data.transforms import CLIP_MEAN, CLIP_STD
from gsnr_toolkit.errors import ProbeError

__all__ = ["counterpart", "counterpart_and_mask"]


def counterpart(
    images: Tensor,
    *,
    faces: Sequence[Face | None] | None = None,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    recipe: Recipe = SOURCE_ONLY,
) -> Tensor:
    """Blend each image with an altered copy of itself.

    The seed comes from the image's bytes, so that a counterpart does not depend on the batch, the run, the device, or
    any random state. Outside the mask the input values are returned bit for bit.

    Args:
        images: (N, 3, H, W): uint8, or normalised float32 or float64 made from 8-bit pixels.
        faces: A face or None for each image; with None, all outlines are generic.
        mean: Mean by channel that float images are normalised with.
        std: Standard deviation by channel that float images are normalised with.
        recipe: Ranges; it must not flip, crop, or change the target.

    Returns:
        (N, 3, H, W) of the same dtype and device, without a gradient.

    Raises:
        ProbeError: If the tensor has another shape or dtype, or its values are not normalised 8-bit pixels.

    >>> images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    >>> torch.equal(counterpart(images)[1], counterpart(images[1:])[0])
    True
    """
    return counterpart_and_mask(images, faces=faces, mean=mean, std=std, recipe=recipe)[0]


def counterpart_and_mask(
    images: Tensor,
    *,
    faces: Sequence[Face | None] | None = None,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    recipe: Recipe = SOURCE_ONLY,
) -> tuple[Tensor, Tensor]:
    """Return the counterparts of :func:`counterpart`, and their masks (N, 1, H, W), float32 in [0, 1]."""
    _check(images, faces, recipe)
    centre, spread = (torch.tensor(tuple(values), dtype=torch.float64).view(3, 1, 1) for values in (mean, std))
    pixels = _to_pixels(images, centre, spread)
    known = [None] * len(pixels) if faces is None else faces
    blends, masks = np.empty_like(pixels), np.empty(pixels.shape[:3], dtype=np.float32)
    for number, (image, face) in enumerate(zip(pixels, known, strict=True)):
        pair = self_blend(image, face, recipe=recipe)
        blends[number], masks[number] = pair.blend, pair.mask
    weights = torch.from_numpy(masks)[:, None].to(images.device)
    made = torch.from_numpy(blends).permute(0, 3, 1, 2)
    if images.dtype != torch.uint8:
        made = made.to(images.dtype).div(255).sub(centre.to(images.dtype)).div(spread.to(images.dtype))
    # Outside the mask return the images themselves: a round trip through 8 bits would change float values.
    return torch.where(weights > 0, made.to(images.device), images.detach()), weights


def _to_pixels(images: Tensor, centre: Tensor, spread: Tensor) -> NDArray[np.uint8]:
    values = images.detach().cpu()
    if values.dtype != torch.uint8:
        levels = (values.double() * spread + centre) * 255
        low, high = levels.aminmax() if levels.numel() else (torch.zeros(()), torch.zeros(()))
        # negated, so that NaN is rejected too
        if not (low > -1 and high < 256):
            raise ProbeError(
                f"expected images normalised with mean and std, got grey levels from {low:.1f} to {high:.1f} "
                "instead of 0 to 255; pass the mean and std of the data set"
            )
        values = levels.round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(values.permute(0, 2, 3, 1).numpy())


def _check(images: Tensor, faces: Sequence[Face | None] | None, recipe: Recipe) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ProbeError(
            f"expected images (N, 3, H, W), got shape {tuple(images.shape)}; move the channels to the second axis"
        )
    if images.dtype not in (torch.uint8, torch.float32, torch.float64):
        raise ProbeError(
            f"expected uint8, float32 or float64 images, got {images.dtype}, too coarse for 8-bit pixels; cast after "
            "making the counterparts"
        )
    if faces is not None and len(faces) != len(images):
        raise ProbeError(
            f"expected a face or None for each of {len(images)} images, got {len(faces)}; pass faces of that length"
        )
    if recipe.crop or recipe.flip_chance > 0 or recipe.final or recipe.augmented != "source":
        raise ProbeError(
            "expected a recipe that keeps the image: crop=False, flip_chance=0, final=False, augmented='source', got "
            f"crop={recipe.crop}, flip_chance={recipe.flip_chance}, final={recipe.final}, "
            f"augmented={recipe.augmented!r}; start from SOURCE_ONLY"
        )
