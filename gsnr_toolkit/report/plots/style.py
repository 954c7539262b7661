"""The look of every figure: one theme, one palette, one way to write files.

The style is applied by a context manager, so neither importing nor plotting changes the global settings of matplotlib
or seaborn. Fonts are embedded as TrueType (type 42), as publishers require; the text of a PDF stays searchable.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gsnr_toolkit.errors import WriteError
from gsnr_toolkit.support.atomic import make_folder

COLUMN_WIDTH = 3.3  # inches: one column of a two-column paper
TEXT_WIDTH = 7.0  # inches: both columns

# Okabe & Ito, "Color universal design" (2008): distinguishable under the common colour-vision deficiencies.
OKABE_ITO = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "vermillion": "#D55E00",
    "yellow": "#F0E442",
    "black": "#000000",
}
TOTAL_COLOR = OKABE_ITO["black"]
ZONE_COLOR = "#D62728"
MUTED = "#5A5A5A"
MANY_GROUPS = 6  # above this many groups, colour means depth and only the groups that matter get intervals

# Seaborn's theme for papers, scaled to a figure one column wide, with a few settings of our own.
RC: dict[Any, Any] = {  # keys are typed differently by different versions of matplotlib
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper", font_scale=0.8),
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same picture everywhere
    "axes.titlesize": 8,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.borderaxespad": 0.2,
    "legend.labelspacing": 0.3,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
    "patch.linewidth": 0.6,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "text.usetex": False,
    "savefig.bbox": None,  # a figure made 3.3 in wide is written 3.3 in wide
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Apply the style of the toolkit's figures inside a ``with`` block.

    Example:
        >>> import matplotlib
        >>> before = matplotlib.rcParams["pdf.fonttype"]
        >>> with paper_style():
        ...     matplotlib.rcParams["pdf.fonttype"]
        42
        >>> matplotlib.rcParams["pdf.fonttype"] == before
        True
    """
    with matplotlib.rc_context(RC):
        yield


in_paper_style = paper_style()
"""Decorator: run a plotting function inside `paper_style`."""


def new_figure(width: float = COLUMN_WIDTH, height: float = 2.4) -> Figure:
    """Return an empty figure, sized in inches, with constrained layout; it has no window and is unknown to pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def axes_or_new(ax: Axes | None, width: float = COLUMN_WIDTH, height: float = 2.4) -> Axes:
    """Return the given axes, or the only axes of a fresh figure."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def root_figure(ax: Axes) -> Figure:
    """Return the outermost figure of an axes, which may belong to a subfigure.

    Raises:
        ValueError: The axes were removed from their figure.
    """
    figure = getattr(ax.figure, "figure", None)  # the root, in every version of matplotlib
    if not isinstance(figure, Figure):
        raise ValueError("expected axes of a figure, got removed axes; pass ax=None for a new figure")
    return figure


def dress(ax: Axes, *, title: str, note: str) -> None:
    """Set the title, the note under it (number of samples, interval level; may be empty), and the size of the ticks."""
    ax.set_title(title, loc="left", fontsize=RC["axes.titlesize"], pad=15 if note else 6)
    if note:
        ax.annotate(
            note, xy=(0, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points",
            fontsize=RC["legend.fontsize"], color=MUTED, gid="note",
        )  # fmt: skip
    # matplotlib creates ticks lazily, often after the style's context has ended, so the axes must keep their size.
    ax.tick_params(axis="both", which="both", labelsize=RC["xtick.labelsize"], width=0.6)
    ax.tick_params(axis="both", which="major", length=3)
    ax.tick_params(axis="both", which="minor", length=1.8)


def depth_colors(groups: Sequence[str]) -> dict[str, Any]:
    """Assign colours to groups in depth order: distinct hues to a few groups, a sequential map to many.

    Returns:
        Colour by group name.

    Example:
        >>> depth_colors(["stem", "head"])
        {'stem': '#0072B2', 'head': '#E69F00'}
    """
    if len(groups) <= MANY_GROUPS:
        return dict(zip(groups, OKABE_ITO.values(), strict=False))
    # Without the palest end of viridis, which vanishes on white paper.
    shades = sns.color_palette("viridis", as_cmap=True)(0.88 * np.linspace(0, 1, len(groups)))
    return dict(zip(groups, map(tuple, shades), strict=True))


def save(
    figure: Figure, stem: str | os.PathLike[str], *, formats: Sequence[str] = ("png", "pdf"), dpi: int = 300
) -> list[Path]:
    """Write a figure in several formats: all of the files, or none.

    Every format is rendered in memory first, and the files then appear by atomic renaming. A failure leaves the
    previous files untouched.

    Args:
        figure: The figure.
        stem: Path without suffix; its folder is created if missing.
        formats: File formats known to matplotlib, without dots.
        dpi: Resolution of bitmaps.

    Returns:
        The written paths, in the order of `formats`.

    Raises:
        WriteError: If a file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in save(new_figure(), Path(folder) / "empty")]
        ['empty.png', 'empty.pdf']
    """
    stem = Path(stem)
    rendered: list[tuple[Path, bytes]] = []
    with paper_style():
        for suffix in formats:
            buffer = BytesIO()
            # without dates, equal figures give equal files
            metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix)
            figure.savefig(buffer, format=suffix, dpi=dpi, metadata=metadata)
            rendered.append((stem.with_name(f"{stem.name}.{suffix}"), buffer.getvalue()))
    make_folder(stem.parent)
    staged = [(path.with_name(f".{path.name}.{os.getpid()}.part"), path) for path, _ in rendered]
    try:
        for (temporary, _), (_, content) in zip(staged, rendered, strict=True):
            temporary.write_bytes(content)
        for temporary, path in staged:
            temporary.replace(path)
    except OSError as error:
        raise WriteError(stem, error) from error
    finally:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)
    return [path for path, _ in rendered]
