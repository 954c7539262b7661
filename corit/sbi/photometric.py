"""Changes of colour, resolution and compression; none of them moves a pixel.

All colour changes are affine maps of RGB, so that a chain of them is one matrix, applied once and rounded once. Applied
one after the other in 8 bits, each would add its own rounding error, and a forgery detector would learn these errors.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from corit.sbi.recipe import Recipe
from corit.sbi.seeds import Pixels

__all__ = ["after_blending", "before_blending", "to_bytes"]

#: (3, 4): three rows of weights of R, G and B, and an offset in grey levels each.
ColourMap = NDArray[np.float64]

_GREY = np.full((3, 3), 1 / 3)
_TURN = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)


def unchanged() -> ColourMap:
    """Return the identity map."""
    return np.eye(3, 4)


def chain(*maps: ColourMap) -> ColourMap:
    """Return the composition of maps (3, 4), applied in the order given.

    >>> double, brighter = np.eye(3, 4) * 2, unchanged() + [0, 0, 0, 10]
    >>> chain(double, brighter)[0].tolist(), chain(brighter, double)[0].tolist()
    ([2.0, 0.0, 0.0, 10.0], [2.0, 0.0, 0.0, 20.0])
    """
    total = unchanged()
    for step in maps:
        total = np.column_stack([step[:, :3] @ total[:, :3], step[:, :3] @ total[:, 3] + step[:, 3]])
    return total


def shift_channels(levels: NDArray[np.float64]) -> ColourMap:
    """Return the map that adds a number of grey levels, (3,), to each channel."""
    return np.column_stack([np.eye(3), levels])


def hue_saturation_value(degrees: float, saturation: float, value: float) -> ColourMap:
    """Return the map that rotates the hue about the grey axis, stretches the chroma, and scales all channels.

    With ``L`` the projection on the grey axis and ``R`` the rotation about it, the map is
    ``(1 + value) (L + (1 + saturation) (R - L))``. It is linear, and only ``value`` changes the mean of R, G and B. (In
    HSV, the same change would need a conversion to whole degrees and back.)

    >>> hue_saturation_value(120, 0, 0)[:, :3].round().astype(int).tolist()  # red becomes green, green blue, blue red
    [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    """
    angle = np.deg2rad(degrees)
    turn = np.cos(angle) * (np.eye(3) - _GREY) + np.sin(angle) * _TURN
    return np.column_stack([(1 + value) * (_GREY + (1 + saturation) * turn), np.zeros(3)])


def brightness_contrast(brightness: float, contrast: float) -> ColourMap:
    """Return the map that scales all channels by ``1 + contrast`` and adds ``brightness`` of the full scale."""
    return np.column_stack([np.eye(3) * (1 + contrast), np.full(3, 255 * brightness)])


def apply_colour(image: Pixels, colour: ColourMap) -> Pixels:
    """Apply a map to every pixel (H, W, 3), round to the nearest level, and clip to 0 and 255."""
    if np.array_equal(colour, unchanged()):
        return image
    return to_bytes(cv2.transform(image.astype(np.float32), colour.astype(np.float32)))


def to_bytes(values: NDArray[Any]) -> Pixels:
    """Round to the nearest grey level and clip to 0 and 255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def rescaled(image: Pixels, factor: int) -> Pixels:
    """Remove the finest detail: shrink each side ``factor`` times by area averages, then enlarge linearly."""
    height, width = image.shape[:2]
    small = (max(1, width // factor), max(1, height // factor))
    return np.asarray(
        cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height)), dtype=np.uint8
    )


def sharpened(image: Pixels, weight: float) -> Pixels:
    """Add the Laplacian over the eight neighbours, times ``weight``."""
    kernel = np.full((3, 3), -weight, dtype=np.float32)
    kernel[1, 1] = 1 + 8 * weight
    return np.asarray(cv2.filter2D(image, -1, kernel), dtype=np.uint8)


def through_jpeg(image: Pixels, quality: int) -> Pixels:
    """Encode an RGB image as JPEG of a quality from 1 to 100, and decode it."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    return np.asarray(decoded, dtype=np.uint8)


def before_blending(image: Pixels, rng: np.random.Generator, recipe: Recipe) -> Pixels:
    """Step 4: change one image (H, W, 3) of the pair, so that its region differs from the other's."""
    colour = chain(
        _some_shift(rng, recipe, recipe.shift_chance), _some_hue(rng, recipe), _some_contrast(rng, recipe.contrast)
    )
    image = apply_colour(image, colour)
    shrink, factor, weight = rng.random() < 0.5, int(rng.choice(recipe.scales)), rng.uniform(*recipe.sharpness)
    return rescaled(image, factor) if shrink else sharpened(image, weight)


def after_blending(images: tuple[Pixels, Pixels], rng: np.random.Generator, recipe: Recipe) -> tuple[Pixels, Pixels]:
    """Step 8: apply the same change to both images (H, W, 3) of the pair."""
    shift, hue = _some_shift(rng, recipe, recipe.final_chance), _some_hue(rng, recipe)
    contrast = _some_contrast(rng, recipe.final_contrast)
    with_hue, with_contrast, with_jpeg = rng.random(3) < (recipe.final_chance, recipe.final_chance, recipe.jpeg_chance)
    quality = int(rng.integers(recipe.jpeg[0], recipe.jpeg[1] + 1))
    colour = chain(shift, hue if with_hue else unchanged(), contrast if with_contrast else unchanged())
    first, second = (apply_colour(image, colour) for image in images)
    return (through_jpeg(first, quality), through_jpeg(second, quality)) if with_jpeg else (first, second)


# The numbers are drawn even if the change is not applied, so that later draws do not depend on that choice.
def _some_shift(rng: np.random.Generator, recipe: Recipe, chance: float) -> ColourMap:
    levels = rng.uniform(-recipe.shift, recipe.shift, 3)
    return shift_channels(levels) if rng.random() < chance else unchanged()


def _some_hue(rng: np.random.Generator, recipe: Recipe) -> ColourMap:
    degrees, saturation, value = rng.uniform(-1, 1, 3) * (recipe.hue, recipe.saturation, recipe.value)
    return hue_saturation_value(float(degrees), float(saturation), float(value))


def _some_contrast(rng: np.random.Generator, most: float) -> ColourMap:
    brightness, contrast = rng.uniform(-most, most, 2)
    return brightness_contrast(float(brightness), float(contrast))
