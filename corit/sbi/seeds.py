"""Seeds from an image's bytes, so that the same picture is always blended the same way."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsnr_toolkit.errors import ProbeError

__all__ = ["SMALLEST_SIDE", "Pixels", "as_pixels", "content_seed", "generator"]

Pixels = NDArray[np.uint8]

#: Smaller images are refused: a filter scaled to them would have one pixel and soften nothing.
SMALLEST_SIDE = 16


def content_seed(image: Pixels) -> int:
    """Derive a 64-bit seed from an image's shape and bytes (BLAKE2b).

    Args:
        image: uint8 array.

    Returns:
        The seed; different pixels or shapes give a different seed.

    >>> black = np.zeros((4, 4, 3), np.uint8)
    >>> content_seed(black) == content_seed(black.copy()), content_seed(black) == content_seed(black.reshape(2, 8, 3))
    (True, False)
    """
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(image).data)
    return int.from_bytes(digest.digest(), "little")


def generator(image: Pixels, seed: int | Sequence[int] | None) -> np.random.Generator:
    """Return the random generator of one image, seeded by :func:`content_seed` when ``seed`` is None."""
    if seed is None:
        return np.random.default_rng(content_seed(image))
    if np.min(seed) < 0:
        raise ProbeError(f"expected a seed of at least 0, got {seed}; pass non-negative integers")
    return np.random.default_rng(seed)


def as_pixels(image: Any) -> Pixels:
    """Return a uint8 image (H, W, 3), (H, W, 1) or (H, W) as (H, W, 3), contiguous; grey is repeated in three channels.

    Raises:
        ProbeError: If the type or shape differs, or a side is below 16 pixels.

    >>> as_pixels(np.zeros((16, 20), np.uint8)).shape
    (16, 20, 3)
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = f"dtype {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ProbeError(f"expected an image as a uint8 array with values 0 to 255, got {got}; convert it")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ProbeError(f"expected an image (H, W, 3) or (H, W), got shape {image.shape}; see that channels come last")
    if min(image.shape[:2]) < SMALLEST_SIDE:
        size = image.shape[:2]
        raise ProbeError(f"expected an image of at least {SMALLEST_SIDE} pixels a side, got {size}; enlarge it")
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image)
