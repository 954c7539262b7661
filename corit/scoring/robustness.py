"""Degraded images for robustness tests: JPEG, blur, resizing and noise."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from gsnr_toolkit.data.base import DataError, ForgeryDataset
from gsnr_toolkit.data.transforms import fit_square
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.lookup import did_you_mean

__all__ = ["LEVELS", "PERTURBATIONS", "Perturbed", "perturb"]

Pixels = NDArray[np.uint8]

#: The perturbations, and the meaning of their level.
PERTURBATIONS = {
    "jpeg": "JPEG; quality, 1 to 100",
    "blur": "Gaussian blur; standard deviation in pixels",
    "resize": "shrunk and enlarged again (bicubic); the smaller side relative to the larger one",
    "noise": "Gaussian noise; standard deviation in grey levels",
}

#: The levels of a robustness table, mild to strong.
LEVELS: dict[str, tuple[float, ...]] = {
    "jpeg": (90, 70, 50, 30),
    "blur": (0.5, 1, 2),
    "resize": (0.75, 0.5, 0.25),
    "noise": (2, 5, 10),
}


def perturb(image: Pixels, name: str, level: float) -> Pixels:
    """Degrade an image reproducibly: the same image always gives the same result.

    Args:
        image: (H, W, 3), RGB.
        name: One of :data:`PERTURBATIONS`.
        level: Its level, in the unit stated there.

    Returns:
        (H, W, 3).

    Raises:
        ProbeError: If the perturbation is unknown, or the level out of its range.

    >>> grey = np.full((8, 8, 3), 128, np.uint8)
    >>> bool((perturb(grey, "blur", 1) == grey).all())
    True
    """
    if name not in PERTURBATIONS:
        meant = did_you_mean(name, PERTURBATIONS)
        raise ProbeError(f"expected a perturbation out of {', '.join(PERTURBATIONS)}, got {name!r}; choose one.{meant}")
    low, high = {"jpeg": (1, 100), "resize": (0.02, 1), "blur": (0, 100), "noise": (0, 255)}[name]
    if not low <= level <= high:
        raise ProbeError(
            f"expected a level of {name} from {low} to {high}, got {level}; change it ({PERTURBATIONS[name]})"
        )
    return _APPLY[name](image, level)


def _jpeg(image: Pixels, quality: float) -> Pixels:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=int(quality))
    return np.asarray(Image.open(stream).convert("RGB"))


def _blur(image: Pixels, sigma: float) -> Pixels:
    if sigma == 0:
        return image
    return _bytes(gaussian_filter(image.astype(np.float64), (sigma, sigma, 0), mode="nearest"))


def _resize(image: Pixels, share: float) -> Pixels:
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize(
        (max(1, round(width * share)), max(1, round(height * share))), Image.Resampling.BICUBIC
    )
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def _noise(image: Pixels, sigma: float) -> Pixels:
    # seeded by the image, so that its noise depends neither on the order nor on other images
    rng = np.random.default_rng(list(hashlib.blake2b(image.tobytes(), digest_size=16).digest()))
    return _bytes(image + rng.normal(0, sigma, image.shape))


def _bytes(values: NDArray[np.floating]) -> Pixels:
    return np.rint(values).clip(0, 255).astype(np.uint8)


_APPLY: dict[str, Callable[[Pixels, float], Pixels]] = {
    "jpeg": _jpeg,
    "blur": _blur,
    "resize": _resize,
    "noise": _noise,
}


class Perturbed(ForgeryDataset):
    """A data set whose images are resized to the detector's square and then degraded.

    The order matters: after resizing, one level means the same for large and small images.

    Args:
        data: A data set that reads pixels.
        name: One of :data:`PERTURBATIONS`.
        level: Its level.

    Raises:
        DataError: If the data set returns tensors, without pixels.

    >>> from gsnr_toolkit.data.demo.dataset import open_demo
    >>> Perturbed(open_demo("df", size=2, image_size=32), "jpeg", 50).load_image(0).shape
    (32, 32, 3)
    """

    def __init__(self, data: ForgeryDataset, name: str, level: float) -> None:
        if type(data).load_image is ForgeryDataset.load_image:
            raise DataError(
                f"{data.name}: expected images as pixels for {name}, but the data set returns tensors; make it a "
                "ForgeryDataset with load_image(index) -> uint8 array (H, W, 3)"
            )
        perturb(np.zeros((8, 8, 3), np.uint8), name, level)  # refuses a level out of range before any image is read
        self._data, self._name, self._level = data, name, level
        super().__init__(
            data.name,
            data.records,
            caption=data.caption,
            skipped=data.skipped,
            notes=[*data.notes, f"every image: {name} {level:g}"],
            image_size=data.image_size,
            mean=data.mean,
            std=data.std,
            fit=data.fit,
        )

    def load_image(self, index: int) -> Pixels:
        """Read row ``index`` and degrade it, uint8 (S, S, 3)."""
        image: Any = self._data.load_image(index)
        whole = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        square = np.array(fit_square(whole, self.image_size, self.fit))
        return perturb(square, self._name, self._level)
