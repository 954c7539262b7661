"""Samples of the families: real, forged with the forged region outlined, and how far the two differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from analyses.support.families import NAMES
from gsnr_toolkit.data.demo.pairs import DemoPair, demo_pair
from gsnr_toolkit.report.plots.style import OKABE_ITO

__all__ = ["draw_samples"]

SIZE = 64
"""Side of the images, that of ``clip-demo``: the forgery traces are made for its grid of patches."""

IDENTITIES = (11, 4)
GAP = 3
GAIN = 4
"""Factor on differences, so that the faintest family is visible on paper."""


def draw_samples(figure: SubFigure, families: Sequence[str], identities: Sequence[int] = IDENTITIES) -> None:
    """Draw three images of each family and person.

    Args:
        figure: Figure to draw on.
        families: Such as ``["df", "nt"]``.
        identities: Persons, one row each: real, forged and difference.
    """
    axes = figure.subplots(len(identities), len(families), squeeze=False)
    for row, identity in enumerate(identities):
        for ax, family in zip(axes[row], families, strict=True):
            _draw_triple(ax, demo_pair(family, identity, size=SIZE))
            if row == 0:
                ax.set_title(f"{family} (after {NAMES[family]})", fontsize=7, loc="center", pad=3)
    words = f"(c) Embedded data: real, forged with its region outlined, difference times {GAIN}; {SIZE} pixels"
    figure.suptitle(words, x=0.01, ha="left", fontsize=8)


def _draw_triple(ax: Axes, pair: DemoPair) -> None:
    """Draw real, forged and difference side by side, the forged region outlined."""
    difference = np.abs(pair.fake.astype(float) - pair.real.astype(float)).mean(-1, keepdims=True) * GAIN
    dark = (255 - difference.clip(0, 255)).astype(np.uint8).repeat(3, axis=2)
    gap = np.full((SIZE, GAP, 3), 255, dtype=np.uint8)
    ax.imshow(np.concatenate([pair.real, gap, pair.fake, gap, dark], axis=1), interpolation="lanczos")
    left = np.arange(SIZE) + SIZE + GAP
    ax.contour(left, np.arange(SIZE), pair.mask, levels=[0.5], colors=OKABE_ITO["yellow"], linewidths=0.8)
    ax.set_axis_off()
