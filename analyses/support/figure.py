"""Captions and files of the figures."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gsnr_toolkit.inputs.options import DEFAULT_RHO, default_radii
from gsnr_toolkit.report.plots.style import MUTED, save

MEASURED: dict[str, Any] = {"rho": DEFAULT_RHO, "radii": list(default_radii(DEFAULT_RHO)), "confidence": 0.95}
"""Settings of the recorded reports that the toolkit's plots need."""

PNG_DPI = 200
CHARACTERS_PER_INCH = 22  # of a caption line


def save_figure(figure: Figure, out: Path, name: str, caption: str) -> None:
    """Write a figure, with its caption at the bottom, as PNG and PDF beside the folder ``out`` of the tables."""
    width = int(CHARACTERS_PER_INCH * figure.get_figwidth())
    figure.supxlabel(textwrap.fill(caption, width), fontsize=6, color=MUTED, x=0.01, ha="left")
    for path in save(figure, out.parent / name, dpi=PNG_DPI):
        print(path, flush=True)


def grey_title(figure: Figure, words: str) -> None:
    """Write data, n and intervals in grey above a figure."""
    figure.suptitle(words, fontsize=6.5, color=MUTED, x=0.01, ha="left")


def caption_line(words: str, *parts: str) -> str:
    """Return the line under a figure, the data first.

    >>> caption_line("embedded data", "n = 256 images", "2 seeds")
    'Data: embedded data. n = 256 images, 2 seeds.'
    """
    return f"Data: {words}. {', '.join(parts)}."
