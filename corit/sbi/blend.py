"""Blend one image with an altered copy of itself: the steps of self-blending, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from corit.sbi.faces import Face, Points, usable_face
from corit.sbi.masks import Mask, deform, draw_outline, rasterised, soften
from corit.sbi.photometric import after_blending, before_blending, to_bytes
from corit.sbi.recipe import Recipe
from corit.sbi.seeds import Pixels, as_pixels, generator
from corit.sbi.windows import Window, last_window, loose_window

__all__ = ["SelfBlend", "blend_images", "self_blend"]


@dataclass(frozen=True)
class SelfBlend:
    """A real image and its self-blended counterpart.

    Attributes:
        target: (H, W, 3) uint8; label 0.
        blend: (H, W, 3) uint8; label 1.
        mask: (H, W) float32 in [0, 1]: the weight of the source in each pixel of ``blend``.
        outline: What the mask was drawn from: ``"81 landmarks"``, ``"68 landmarks"``, ``"box"`` or ``"generic"``.
        face: The face in pixels of ``target``; None if unknown.
    """

    target: Pixels
    blend: Pixels
    mask: Mask
    outline: str
    face: Face | None = None


def self_blend(
    image: Any,
    face: Face | None = None,
    *,
    seed: int | Sequence[int] | None = None,
    recipe: Recipe | None = None,
) -> SelfBlend:
    """Make a pair from one real image.

    The steps are: flip; crop loosely around the face; draw the outline; copy the image into a source and a target and
    change the colour and resolution of one of them; shift and zoom source and mask, and deform the mask; soften the
    mask's edge; scale it by a ratio and set ``blend = m source + (1 - m) target``; apply one last change to both
    images; crop with random margins.

    Source: Shiohara and Yamasaki, Detecting Deepfakes with Self-Blended Images (CVPR 2022).

    Args:
        image: uint8 array (H, W, 3) or (H, W), RGB, at least 16 pixels on each side.
        face: Where the face is. Unusable landmarks are dropped with a warning. Without a face, the outline is generic
            and the crop random.
        seed: One or more non-negative integers; derived from the image's bytes by default.
        recipe: Probabilities and ranges; the defaults of :class:`Recipe` when None.

    Returns:
        The pair, at the size of the last crop.

    Raises:
        ProbeError: If the image has another type or shape, or the seed is negative.

    >>> grey = np.full((64, 64, 3), 128, np.uint8)
    >>> pair = self_blend(grey, seed=0)
    >>> pair.target.shape == pair.blend.shape, pair.outline
    (True, 'generic')
    """
    recipe = Recipe() if recipe is None else recipe
    pixels = as_pixels(image)
    rng = generator(pixels, seed)
    face = usable_face(face, pixels.shape[0], pixels.shape[1])
    if rng.random() < recipe.flip_chance:
        face = None if face is None else face.flipped(pixels.shape[1])
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    if recipe.crop:
        pixels, face = _cut(pixels, face, loose_window(face, pixels.shape[0], pixels.shape[1], recipe))
    pixels, face = _shrunk(pixels, face, recipe.largest)
    outline, kind = draw_outline(face, pixels.shape[0], pixels.shape[1], rng, recipe)
    target, blend, mask = blend_images(pixels, outline, rng, recipe)
    if recipe.final:
        target, blend = after_blending((target, blend), rng, recipe)
    pair = SelfBlend(target, blend, mask, kind, face)
    return _last_cut(pair, rng, recipe) if recipe.crop else pair


def blend_images(
    image: Pixels, outline: Points, rng: np.random.Generator, recipe: Recipe
) -> tuple[Pixels, Pixels, Mask]:
    """Return target and blend, (H, W, 3) each, and the mask (H, W): steps 4 to 7, which change source and target.

    Where the mask is 0, blend and target are equal bit for bit. ``outline`` is a convex polygon: its corners, (K, 2).
    """
    height, width = image.shape[:2]
    to_source = recipe.augmented == "source" or rng.random() < 0.5
    changed = before_blending(image, rng, recipe)
    source, target = (changed, image) if to_source else (image, changed)
    motion = draw_motion(outline, height, width, rng, recipe)
    source = moved(source, motion)
    outline = np.asarray(outline @ motion[:, :2].T + motion[:, 2], dtype=np.float32)
    region = rasterised(outline, height, width)
    deformed = deform(region, rng, recipe)
    # The deformation may erase a speck; a blend with an empty mask would be a real image labelled as a forgery.
    mask = soften(deformed if deformed.any() else region, rng, recipe)
    return target, mixed(source, target, mask), mask


def draw_motion(
    outline: Points, height: int, width: int, rng: np.random.Generator, recipe: Recipe
) -> NDArray[np.float64]:
    """Draw step 5 as a (2, 3) matrix on (x, y, 1): a shift, and a zoom about the middle of the outline."""
    shift = rng.uniform(-1, 1, 2) * (recipe.move_x * width, recipe.move_y * height)
    zoom = rng.uniform(recipe.zoom, 1 / recipe.zoom)
    centre = (outline.min(axis=0).astype(np.float64) + outline.max(axis=0)) / 2
    return np.column_stack([zoom * np.eye(2), centre * (1 - zoom) + shift])


def moved(image: Pixels, motion: NDArray[np.float64]) -> Pixels:
    """Warp an image by a (2, 3) matrix with linear interpolation; pixels beyond the edge are mirrored."""
    size = (image.shape[1], image.shape[0])
    return np.asarray(cv2.warpAffine(image, motion, size, borderMode=cv2.BORDER_REFLECT_101), dtype=np.uint8)


def mixed(source: Pixels, target: Pixels, mask: Mask) -> Pixels:
    """Return ``m source + (1 - m) target`` in 8 bits: exactly ``target`` where m is 0, ``source`` where it is 1."""
    change = source.astype(np.float32) - target
    return to_bytes(target + mask[:, :, None] * change)


def _cut(pixels: Pixels, face: Face | None, window: Window) -> tuple[Pixels, Face | None]:
    left, top, right, bottom = window
    return np.ascontiguousarray(pixels[top:bottom, left:right]), None if face is None else face.moved(1, left, top)


def _shrunk(pixels: Pixels, face: Face | None, largest: int | None) -> tuple[Pixels, Face | None]:
    height, width = pixels.shape[:2]
    if largest is None or min(height, width) <= largest:
        return pixels, face
    scale = largest / min(height, width)
    size = (round(width * scale), round(height * scale))
    small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return small, None if face is None else face.moved(scale, 0, 0)


def _last_cut(pair: SelfBlend, rng: np.random.Generator, recipe: Recipe) -> SelfBlend:
    height, width = pair.mask.shape
    left, top, right, bottom = last_window(pair.face, height, width, rng, recipe)
    rows, columns = slice(top, bottom), slice(left, right)
    return replace(
        pair,
        target=np.ascontiguousarray(pair.target[rows, columns]),
        blend=np.ascontiguousarray(pair.blend[rows, columns]),
        mask=np.ascontiguousarray(pair.mask[rows, columns]),
        face=None if pair.face is None else pair.face.moved(1, left, top),
    )
