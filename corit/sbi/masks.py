"""The region to blend: an outline from landmarks, from a box or at random; its deformation and its soft edge."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from corit.sbi.faces import INNER, Face, Points
from corit.sbi.recipe import REFERENCE_SIDE, Recipe, odd
from corit.sbi.seeds import Pixels

__all__ = ["Mask", "box_outline", "deform", "draw_outline", "face_outline", "random_outline", "rasterised", "soften"]

#: (H, W) float32 in [0, 1]: the weight of the source in each pixel.
Mask = NDArray[np.float32]

#: The deformation is drawn in this many coarse cells along the shorter side, whatever the size, so that a seed deforms
#: a small and a large copy of an image alike.
_CELLS = 64
_CORNERS = 48
#: Fractional bits of polygon corners: positions are rounded to a sixteenth of a pixel.
_BITS = 4


def draw_outline(
    face: Face | None, height: int, width: int, rng: np.random.Generator, recipe: Recipe
) -> tuple[Points, str]:
    """Return the outline of step 3, chosen by what is known about the face, and what it was drawn from.

    The outline is a convex polygon: its corners, (K, 2). It was drawn from ``"68 landmarks"``, ``"81 landmarks"``,
    ``"box"`` or ``"generic"``.
    """
    inner = rng.random() < recipe.inner_chance
    if face is not None and face.landmarks is not None:
        count = INNER if inner else len(face.landmarks)
        return face_outline(face.landmarks[:count]), f"{count} landmarks"
    if face is not None and face.box is not None:
        return box_outline(face.box, rng), "box"
    return random_outline(height, width, rng), "generic"


def face_outline(landmarks: Points) -> Points:
    """Return the corners (K, 2), in order, of the convex hull of landmarks (N, 2).

    >>> square = np.array([[0, 0], [4, 0], [4, 4], [0, 4], [2, 2]], np.float32)
    >>> sorted(face_outline(square).tolist())
    [[0.0, 0.0], [0.0, 4.0], [4.0, 0.0], [4.0, 4.0]]
    """
    return np.asarray(cv2.convexHull(np.ascontiguousarray(landmarks, dtype=np.float32)), dtype=np.float32)[:, 0]


def box_outline(box: Points, rng: np.random.Generator) -> Points:
    """Draw a typical face in a box: an ellipse that narrows towards the chin and fills 80 to 100 % of the box."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    fill = rng.uniform(0.8, 1.0, 2)
    jaw = rng.uniform(0.0, 0.2) * np.clip(np.sin(angles), 0, None)  # y grows downwards
    ring = np.stack([np.cos(angles) * (1 - jaw), np.sin(angles)], axis=1)
    return face_outline(np.asarray(centre + ring * fill * half, dtype=np.float32))


def random_outline(height: int, width: int, rng: np.random.Generator) -> Points:
    """Return a smooth convex outline (K, 2) anywhere in the image, for pictures without a face.

    Its radius about a point in the middle half of the image is 0.2 to 0.4 of the shorter side, plus two harmonics of
    random amplitude and phase. The convex hull of that curve is taken and moved into the image as far as it fits.
    """
    centre = rng.uniform(0.25, 0.75, 2) * (width - 1, height - 1)
    radius = rng.uniform(0.2, 0.4, 2) * min(height, width)
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    size, phase = rng.uniform(0, (0.25, 0.15)), rng.uniform(0, 2 * np.pi, 2)
    wave = 1 + size[0] * np.cos(2 * angles + phase[0]) + size[1] * np.cos(3 * angles + phase[1])
    ring = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * wave[:, None] * radius
    over_low = np.clip(-ring.min(axis=0), 0, None)
    over_high = np.clip(ring.max(axis=0) - (width - 1, height - 1), 0, None)
    return face_outline(np.asarray(ring + over_low - over_high, dtype=np.float32))


def rasterised(outline: Points, height: int, width: int) -> Pixels:
    """Fill a convex polygon: (H, W) uint8, 255 inside; corners (K, 2) may lie outside the image."""
    mask = np.zeros((height, width), dtype=np.uint8)
    corners = np.rint(outline * (1 << _BITS)).astype(np.int32)
    cv2.fillConvexPoly(mask, corners, 255, lineType=cv2.LINE_8, shift=_BITS)
    return mask


def displacement(height: int, width: int, rng: np.random.Generator, recipe: Recipe) -> NDArray[np.float32]:
    """Draw a smooth random field of displacements (H, W, 2), x and y in pixels."""
    # Uniform noise, smoothed with a Gaussian of standard deviation sigma and multiplied by alpha, has the standard
    # deviation alpha / (2 sigma sqrt(3 pi)). For displacements to grow with the side, sigma must grow with the side and
    # alpha with its square. Coarse cells cost a quarter of drawing and smoothing every pixel.
    side = min(height, width)
    rows, columns = (max(1, round(_CELLS * length / side)) for length in (height, width))
    noise = rng.random((rows, columns, 2), dtype=np.float32) * np.float32(2) - np.float32(1)
    sigma = recipe.elastic_sigma * _CELLS / REFERENCE_SIDE
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
    amplitude = recipe.elastic_alpha * _CELLS / REFERENCE_SIDE * (side / REFERENCE_SIDE)
    return np.asarray(cv2.resize(smooth * np.float32(amplitude), (width, height)), dtype=np.float32)


def deform(mask: Pixels, rng: np.random.Generator, recipe: Recipe) -> Pixels:
    """Step 5, for the mask (H, W) alone: warp it by a :func:`displacement`; its edge values extend beyond the image."""
    height, width = mask.shape
    field = displacement(height, width, rng, recipe)
    field[..., 0] += np.arange(width, dtype=np.float32)
    field[..., 1] += np.arange(height, dtype=np.float32)[:, None]
    pulled = cv2.remap(mask, field[..., 0], field[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(pulled, dtype=np.uint8)


def soften(mask: Pixels, rng: np.random.Generator, recipe: Recipe) -> Mask:
    """Return the mask of steps 6 and 7, float32: eroded, softened at its edge, and multiplied by a ratio.

    The authors filter, divide by the maximum and set everything below 1 to 0. The pixels that remain are those with a
    full window, which is an erosion. It is computed as an erosion here, because that is exact. A mask that would vanish
    is not eroded. An empty mask gives an empty mask.
    """
    height, width = mask.shape
    scale = min(height, width) / REFERENCE_SIDE
    share, sigma = rng.uniform(*recipe.mask_side), rng.uniform(*recipe.sigma) * scale
    first, second = (odd(size * scale) for size in rng.uniform(*recipe.kernel, 2))
    ratio = recipe.ratios[int(rng.integers(len(recipe.ratios)))]
    if not mask.any():
        return np.zeros(mask.shape, dtype=np.float32)
    small = cv2.resize(mask, (max(1, round(width * share)), max(1, round(height * share))))
    full = (small == small.max()).astype(np.uint8)
    core = cv2.erode(full, np.ones((first, first), dtype=np.uint8))
    core = core if core.any() else full
    soft = cv2.GaussianBlur(core.astype(np.float32), (second, second), sigma)
    soft = cv2.resize(soft / soft.max(), (width, height))
    return np.asarray(np.clip(soft, 0, 1) * np.float32(ratio), dtype=np.float32)
