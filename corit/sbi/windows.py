"""Crops: a loose one around the face before blending, and one with random margins after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corit.sbi.faces import Face, Points
from corit.sbi.recipe import Recipe
from corit.sbi.seeds import SMALLEST_SIDE

__all__ = ["Window", "last_window", "loose_window"]

#: Left, top, right and bottom in whole pixels; right and bottom are the first ones left out.
Window = tuple[int, int, int, int]


def loose_window(face: Face | None, height: int, width: int, recipe: Recipe) -> Window:
    """Step 2: return the face with generous margins; the whole image if no face is known."""
    if face is None or face.extent is None:
        return (0, 0, width, height)
    return _around(face.extent, [recipe.loose_margin] * 4, height, width)


def last_window(face: Face | None, height: int, width: int, rng: np.random.Generator, recipe: Recipe) -> Window:
    """Return the window of step 9: the face with random margins, as close to a square as the image allows.

    Detectors read squares. A crop of another shape would have to be squeezed, or lose its ends. Without a face, a
    random fraction is removed from each side of the image.
    """
    low, high = recipe.margin if face is not None else recipe.whole_margin
    shares = rng.uniform(low, high, 4)
    if face is None or face.extent is None:
        left, top, right, bottom = np.rint(shares * (width, height, width, height)).astype(int)
        return _large_enough((left, top, width - right, height - bottom), height, width)
    left, top, right, bottom = _around(face.extent, shares.tolist(), height, width)
    side = max(right - left, bottom - top)
    (left, right), (top, bottom) = _widened(left, right, side, width), _widened(top, bottom, side, height)
    return (left, top, right, bottom)


def _around(extent: Points, shares: Sequence[float], height: int, width: int) -> Window:
    """Return the window of an extent with margins relative to its own width and height, within the image."""
    left, top, right, bottom = (float(value) for value in extent)
    across, down = right - left, bottom - top
    window = (
        max(0, round(left - shares[0] * across)),
        max(0, round(top - shares[1] * down)),
        min(width, round(right + shares[2] * across) + 1),
        min(height, round(bottom + shares[3] * down) + 1),
    )
    return _large_enough(window, height, width)


def _large_enough(window: Window, height: int, width: int) -> Window:
    left, top, right, bottom = (int(value) for value in window)
    left, right = _widened(left, right, SMALLEST_SIDE, width)
    top, bottom = _widened(top, bottom, SMALLEST_SIDE, height)
    return (left, top, right, bottom)


def _widened(low: int, high: int, length: int, limit: int) -> tuple[int, int]:
    """Widen an interval to ``length`` about its middle, then move it into 0 to ``limit``."""
    length = min(max(length, high - low), limit)
    low = min(max(0, (low + high - length) // 2), limit - length)
    return low, low + length
