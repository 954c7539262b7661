"""Every number of the self-blending steps in one table; sizes in pixels refer to a 256-pixel crop."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gsnr_toolkit.errors import ProbeError

__all__ = ["REFERENCE_SIDE", "SOURCE_ONLY", "Recipe", "Span", "odd"]

#: Side of the crop that sizes in pixels refer to.
REFERENCE_SIDE = 256

Span = tuple[float, float]


@dataclass(frozen=True)
class Recipe:
    """Probabilities and ranges of the steps: the authors' values, except hue, chroma and value, which are our choice.

    Source: Shiohara and Yamasaki, Detecting Deepfakes with Self-Blended Images (CVPR 2022). Lengths in pixels
    (``elastic_*``, ``kernel``, ``sigma``) hold for a crop with a shorter side of :data:`REFERENCE_SIDE`, and scale with
    it. Probabilities are named ``*_chance``.

    Attributes:
        flip_chance: Probability of a horizontal flip.
        crop: Whether to crop loosely around the face first, and with random margins last.
        loose_margin: Margin of the first crop on every side, in widths or heights of the face's box.
        margin: Range of the margins of the last crop, in the same unit; drawn separately for each side.
        whole_margin: Range of the fraction that the last crop removes from each side if no face is known.
        largest: Maximum shorter side in pixels after the first crop; larger crops are scaled down (area averages). None
            keeps them.
        inner_chance: Probability of the hull of the first 68 landmarks, without the forehead.
        augmented: Which image of the pair is changed before blending: ``"either"`` (a fair coin decides) or
            ``"source"``, which leaves the target unchanged.
        shift: Largest shift of each RGB channel, in grey levels.
        shift_chance: Probability of that shift.
        hue: Largest rotation of the hue, in degrees.
        saturation: Largest relative change of the chroma.
        value: Largest relative change of all channels.
        contrast: Before blending: largest relative change of contrast, and of brightness as a fraction of the full
            scale.
        scales: Factors by which to shrink and enlarge again; the alternative is to sharpen.
        sharpness: Range of the sharpening weight.
        move_x: Largest shift of the source, as a fraction of the width.
        move_y: Largest shift of the source, as a fraction of the height.
        zoom: Smallest scale of the source; its inverse is the largest.
        elastic_alpha: Amplitude of the mask's deformation.
        elastic_sigma: Standard deviation of the filter that smooths the deformation.
        mask_side: Range of the relative side at which the mask is softened (192 to 256 of 256 pixels).
        kernel: Range of the odd sizes of both filters that soften the mask.
        sigma: Range of the second filter's standard deviation.
        ratios: Factors of the mask, one of which is drawn with equal probability.
        final: Whether to change both images of the pair alike after blending.
        final_contrast: As ``contrast``, after blending.
        final_chance: Probability of each colour change after blending.
        jpeg: Range of the JPEG quality.
        jpeg_chance: Probability of JPEG compression.

    Raises:
        ProbeError: If a value is out of its range; names the field, the range and the value.

    >>> Recipe(final=False).jpeg
    (40, 100)
    >>> Recipe(flip_chance=2)
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected flip_chance to be from 0 to 1, got 2; change that field of Recipe
    """

    flip_chance: float = 0.5
    crop: bool = True
    loose_margin: float = 0.5
    margin: Span = (0.05, 0.2)
    whole_margin: Span = (0.0, 0.1)
    largest: int | None = None
    inner_chance: float = 0.25
    augmented: str = "either"
    shift: float = 20
    shift_chance: float = 0.3
    hue: float = 3
    saturation: float = 0.05
    value: float = 0.03
    contrast: float = 0.1
    scales: tuple[int, ...] = (2, 4)
    sharpness: Span = (0.2, 0.5)
    move_x: float = 0.03
    move_y: float = 0.015
    zoom: float = 0.95
    elastic_alpha: float = 50
    elastic_sigma: float = 7
    mask_side: Span = (0.75, 1.0)
    kernel: tuple[int, int] = (5, 25)
    sigma: Span = (5, 45)
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 1, 1, 1)
    final: bool = True
    final_contrast: float = 0.3
    final_chance: float = 0.3
    jpeg: tuple[int, int] = (40, 100)
    jpeg_chance: float = 0.5

    def __post_init__(self) -> None:
        for name in ("flip", "inner", "shift", "final", "jpeg"):
            _within(f"{name}_chance", getattr(self, f"{name}_chance"), 0, 1)
        for name in ("saturation", "value", "contrast", "final_contrast", "move_x", "move_y"):
            _within(name, getattr(self, name), 0, 1)
        for name in ("loose_margin", "shift", "hue", "elastic_alpha"):
            _within(name, getattr(self, name), 0, math.inf)
        _span("margin", self.margin, 0, math.inf)
        _span("whole_margin", self.whole_margin, 0, 0.4)
        _span("sharpness", self.sharpness, 0, 1)
        _span("mask_side", self.mask_side, 0.25, 1)
        _span("kernel", self.kernel, 1, math.inf)
        _span("sigma", self.sigma, 0, math.inf)
        _span("jpeg", self.jpeg, 1, 100)
        _within("zoom", self.zoom, 0.5, 1)
        _within("elastic_sigma", self.elastic_sigma, 2, 64)
        for name in ("scales", "ratios"):
            if not getattr(self, name):
                raise ProbeError(f"expected at least one value in {name}, got none; leave it out for the default")
        for scale in self.scales:
            _within("each of scales", scale, 1, math.inf)
        for ratio in self.ratios:
            _within("each of ratios", ratio, 0, 1)
        if self.augmented not in ("either", "source"):
            raise ProbeError(
                f"expected augmented to be 'either' or 'source', got {self.augmented!r}; choose one of them"
            )
        if self.largest is not None:
            _within("largest", self.largest, 16, math.inf)


def odd(size: float) -> int:
    """Return the odd integer nearest to a filter's size in pixels, at least 1.

    >>> [odd(size) for size in (0.3, 2.9, 4.1, 25)]
    [1, 3, 5, 25]
    """
    return 2 * max(0, round((size - 1) / 2)) + 1


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ProbeError(f"expected {name} to be {_bounds(low, high)}, got {value}; change that field of Recipe")


def _span(name: str, span: tuple[float, float], low: float, high: float) -> None:
    if len(span) != 2 or not low <= span[0] <= span[1] <= high:
        raise ProbeError(
            f"expected {name} to be two ascending numbers {_bounds(low, high)}, got {span}; change that field of Recipe"
        )


def _bounds(low: float, high: float) -> str:
    return f"at least {low}" if high == math.inf else f"from {low} to {high}"


#: For test time: only the blended region changes, and the target is the input image.
SOURCE_ONLY = Recipe(flip_chance=0, crop=False, augmented="source", final=False)
