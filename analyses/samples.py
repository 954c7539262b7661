"""Samples of the families: real, forged with the forged region outlined, and how far the two differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from analyses.figure import NAMES
from gsnr_toolkit.data.demo.pairs import demo_pair
from gsnr_toolkit.plots.style import MUTED, OKABE_ITO

__all__ = ["draw_samples"]

SIZE = 64
"""Side of the images: that of ``clip-demo``; their traces are made for this grid."""

IDENTITIES = (11, 4)
GAIN = 4
"""Factor on differences, so that the faintest family can be seen on paper."""


def draw_samples(figure: SubFigure, families: Sequence[str], identities: Sequence[int] = IDENTITIES) -> None:
    """Draw three images of each family and person.

    Args:
        figure: Where to.
        families: Such as ``["df", "nt"]``.
        identities: Persons, one row each of real, forged and difference.
    """
    axes = figure.subplots(len(identities), 3 * len(families), squeeze=False)
    for row, identity in enumerate(identities):
        for column, family in enumerate(families):
            pair = demo_pair(family, identity, size=SIZE)
            panels = axes[row, 3 * column : 3 * column + 3]
            difference = np.abs(pair.fake.astype(float) - pair.real.astype(float)).mean(-1) * GAIN / 255
            _show(panels[0], pair.real)
            _show(panels[1], pair.fake)
            panels[1].contour(pair.mask, levels=[0.5], colors=OKABE_ITO["yellow"], linewidths=0.9)
            _show(panels[2], 1 - difference.clip(0, 1))
            if row == 0:
                for ax, text in zip(panels, ("real", "forged", "difference"), strict=True):
                    ax.set_title(text, fontsize=6, color=MUTED, loc="center", pad=2)
                panels[1].annotate(
                    f"{family} (after {NAMES[family]})", (0.5, 1.0), xycoords="axes fraction", xytext=(0, 12),
                    textcoords="offset points", ha="center", fontsize=7,
                )  # fmt: skip
    figure.suptitle(
        f"(c) Samples at {SIZE} pixels; forged region outlined, difference times {GAIN}", x=0.01, ha="left", fontsize=8
    )


def _show(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1, interpolation="lanczos")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
