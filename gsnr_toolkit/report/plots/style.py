"""The look of every figure: one rc dictionary, one palette, one way to write files.

The style is applied by a context manager, so importing or plotting never changes the user's global
matplotlib settings. Fonts are embedded as TrueType (type 42), which publishers ask for and which keeps
the text of a PDF searchable.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

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

RC: dict[Any, Any] = {  # keys are typed differently by different versions of matplotlib
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same picture everywhere
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
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
    """Apply the toolkit's figure style for the length of a ``with`` block.

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


def in_paper_style(function: Callable[P, R]) -> Callable[P, R]:
    """Return a plotting function that runs inside `paper_style`."""

    @wraps(function)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        with paper_style():
            return function(*args, **kwargs)

    return styled


def new_figure(width: float = COLUMN_WIDTH, height: float = 2.4) -> Figure:
    """Make an empty figure that belongs to no window system and to no pyplot state.

    Args:
        width: Width in inches.
        height: Height in inches.

    Returns:
        A figure on the Agg canvas with constrained layout.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def axes_or_new(ax: Axes | None, width: float = COLUMN_WIDTH, height: float = 2.4) -> Axes:
    """Return the given axes, or the only axes of a fresh figure."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def root_figure(ax: Axes) -> Figure:
    """Return the figure that an axes, possibly of a subfigure, belongs to.

    Args:
        ax: Axes.

    Returns:
        The outermost figure.

    Raises:
        ValueError: The axes were removed from their figure.
    """
    figure = getattr(ax.figure, "figure", None)  # a subfigure names its root so, in every version of matplotlib
    if not isinstance(figure, Figure):
        raise ValueError("expected axes of a figure, got removed axes; pass ax=None for a new figure")
    return figure


def dress(ax: Axes, *, title: str, note: str) -> None:
    """Set the title, the sample note under it, and tick sizes.

    Ticks are made lazily, often after the style's context has ended, so their size is stored on the axes.

    Args:
        ax: Axes to dress.
        title: What is shown.
        note: With how many samples and at which interval level; empty for no note.
    """
    ax.set_title(title, loc="left", fontsize=RC["axes.titlesize"], pad=15 if note else 6)
    if note:
        ax.annotate(
            note, xy=(0, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points",
            fontsize=RC["legend.fontsize"], color=MUTED, gid="note",
        )  # fmt: skip
    ax.tick_params(axis="both", which="both", labelsize=RC["xtick.labelsize"], width=0.6)
    ax.tick_params(axis="both", which="major", length=3)
    ax.tick_params(axis="both", which="minor", length=1.8)


def depth_colors(groups: Sequence[str]) -> dict[str, Any]:
    """Give each group a colour: distinct hues for a few groups, a sequential map by depth for many.

    Args:
        groups: Group names in depth order.

    Returns:
        Colour by group name.

    Example:
        >>> depth_colors(["stem", "head"])
        {'stem': '#0072B2', 'head': '#E69F00'}
    """
    hues = list(OKABE_ITO.values())
    if len(groups) <= MANY_GROUPS:
        return dict(zip(groups, hues, strict=False))
    # viridis without its palest end, which vanishes on white paper
    colormap = matplotlib.colormaps["viridis"]
    return {group: colormap(0.88 * index / (len(groups) - 1)) for index, group in enumerate(groups)}


def save(
    figure: Figure, stem: str | os.PathLike[str], *, formats: Sequence[str] = ("png", "pdf"), dpi: int = 300
) -> list[Path]:
    """Write a figure in several formats, all or none of them, never half a file.

    Every format is rendered in memory first; the files then appear by atomic renaming. A failure while
    rendering leaves whatever was there before untouched.

    Args:
        figure: The figure.
        stem: Path without suffix; its folder is made when missing.
        formats: File formats known to matplotlib, without dots.
        dpi: Resolution of bitmaps.

    Returns:
        The written paths, in the order of `formats`.

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
    stem.parent.mkdir(parents=True, exist_ok=True)
    staged = [(path.with_name(f".{path.name}.{os.getpid()}.part"), path) for path, _ in rendered]
    try:
        for (temporary, _), (_, content) in zip(staged, rendered, strict=True):
            temporary.write_bytes(content)
        for temporary, path in staged:
            temporary.replace(path)
    finally:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)
    return [path for path, _ in rendered]
