"""The self-blended counterpart of images at test time: tensor in, tensor out, the same for the same pixels."""

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
    """Blend each image with a changed copy of itself.

    The seed is derived from an image's bytes, so that its counterpart depends neither on its batch nor on the run, the
    device, or any random state. Outside the mask the values are those that came in, bit for bit.

    Args:
        images: (N, 3, H, W): uint8, or normalised float32 or float64 made from 8-bit pixels.
        faces: A face or None for each image; None for all draws generic outlines.
        mean: Mean by channel that float images are normalised with.
        std: Standard deviation by channel that float images are normalised with.
        recipe: Ranges; flips, cuts and changes of the target are out of place here.

    Returns:
        (N, 3, H, W) of the same dtype and device, without a gradient.

    Raises:
        ProbeError: If the tensor has another form, or its values are not normalised 8-bit pixels.

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
    """As :func:`counterpart`, with the masks.

    Args:
        images: (N, 3, H, W).
        faces: A face or None for each image.
        mean: Mean by channel.
        std: Standard deviation by channel.
        recipe: Ranges.

    Returns:
        The counterparts (N, 3, H, W) and their masks (N, 1, H, W), float32 in [0, 1].

    Raises:
        ProbeError: As :func:`counterpart`.
    """
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
    # Outside the mask the images themselves, not what is left of them after a way through 8 bits and back.
    return torch.where(weights > 0, made.to(images.device), images.detach()), weights


def _to_pixels(images: Tensor, centre: Tensor, spread: Tensor) -> NDArray[np.uint8]:
    values = images.detach().cpu()
    if values.dtype != torch.uint8:
        levels = (values.double() * spread + centre) * 255
        low, high = levels.aminmax() if levels.numel() else (torch.zeros(()), torch.zeros(()))
        # Negated, so that NaN is refused as well.
        if not (low > -1 and high < 256):
            raise ProbeError(
                f"expected images normalised with mean and std, got grey levels from {low:.1f} to {high:.1f} "
                "instead of 0 to 255; pass the mean and std of the data set"
            )
        values = levels.round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(values.permute(0, 2, 3, 1).numpy())


def _check(images: Tensor, faces: Sequence[Face | None] | None, recipe: Recipe) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ProbeError(f"expected images (N, 3, H, W), got shape {tuple(images.shape)}")
    if images.dtype not in (torch.uint8, torch.float32, torch.float64):
        raise ProbeError(
            f"expected uint8, float32 or float64 images, got {images.dtype}: half precision no longer holds the 8-bit "
            "pixels; cast after taking the counterpart"
        )
    if faces is not None and len(faces) != len(images):
        raise ProbeError(f"expected a face or None for each of {len(images)} images, got {len(faces)}")
    if recipe.crop or recipe.flip_chance > 0 or recipe.final or recipe.augmented != "source":
        raise ProbeError(
            "expected a recipe that leaves the image where it is and as it is: crop=False, flip_chance=0, final=False, "
            "augmented='source'; start from SOURCE_ONLY"
        )
