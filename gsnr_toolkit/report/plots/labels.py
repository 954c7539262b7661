"""Text around an axis: layer names in depth order, thinned so that they do not touch, and the legend below."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import ScaledTranslation

from gsnr_toolkit.report.plots.marks import legend_proxy
from gsnr_toolkit.report.plots.style import RC, root_figure

_NUMBERED = re.compile(r"^(?:block|layer|stage)\s+(\d+)$")
_LONGEST = 18
_LONGEST_IN_TEXT = 12
_LONGEST_HORIZONTAL = 6  # longer names are written upwards
# Labels and legends are placed before the layout is known, so the room is estimated; lengths are in points.
LAYOUT_TAKES = 0.85  # share of the initial width that the layout leaves to an axes
LEFT_OF_AXIS = 26.0  # tick labels and title of the y axis; the legend may use this room
BELOW_AXIS = 29.0  # one line of tick labels and the title


def short_label(group: str) -> str:
    """Shorten the name of a group for an axis.

    Returns:
        The number of a numbered block, the end of a long path.

    Example:
        >>> short_label("block 7"), short_label("visual.transformer.resblocks.0.attn")
        ('7', '…resblocks.0.attn')
    """
    numbered = _NUMBERED.match(group)
    if numbered:
        return numbered.group(1)
    return group if len(group) <= _LONGEST else "…" + group[-(_LONGEST - 2) :]


def full_name(group: str) -> str:
    """Return the name of a group for running text, without the beginning of a long path."""
    return group if len(group) <= _LONGEST_IN_TEXT else short_label(group)


def axis_title(groups: Sequence[str]) -> str:
    """Return the title of the layer axis: "block" if groups are numbered blocks, else "layer".

    Example:
        >>> axis_title(["stem", "block 1", "head"])
        'block (input to output)'
    """
    numbered = any(_NUMBERED.match(group) for group in groups)
    return f"{'block' if numbered else 'layer'} (input to output)"


def sparse_positions(widths: Sequence[float], spacing: float) -> list[int]:
    """Choose which labels to show so that neighbours do not touch; the first and the last always stay.

    Args:
        widths: Width of each label.
        spacing: Distance between neighbouring positions, in the same unit.

    Returns:
        Indices of the labels to show, evenly spaced but for the ends.

    Example:
        >>> sparse_positions([1.0] * 9, spacing=0.6)
        [0, 2, 4, 6, 8]
    """
    last = len(widths) - 1
    if last <= 0:
        return list(range(len(widths)))
    gap = 0.15 * max(widths)

    def apart(i: int, j: int) -> bool:
        return abs(j - i) * spacing >= (widths[i] + widths[j]) / 2 + gap

    for stride in range(1, last + 1):
        inner = [i for i in range(stride, last, stride) if apart(0, i) and apart(i, last)]
        if all(apart(i, j) for i, j in pairwise(inner)):
            return [0, *inner, last]
    return [0, last]


def axes_width(ax: Axes) -> float:
    """Return the width of an axes before layout, in points."""
    return 72 * root_figure(ax).get_figwidth() * ax.get_position().width


def legend_below(ax: Axes, handles: Sequence[Any] | None = None, *, room: float = BELOW_AXIS) -> None:
    """Put the legend under the axis, where it hides no data, in as many columns (at most 3) as fit.

    Args:
        ax: Axes.
        handles: Legend entries; None for every labelled artist.
        room: Points to leave for tick labels and axis title.
    """
    handles = [legend_proxy(handle) for handle in (ax.get_legend_handles_labels()[0] if handles is None else handles)]
    size = float(RC["legend.fontsize"])
    widths = [0.57 * size * len(str(handle.get_label())) + 3.2 * size for handle in handles]
    available = axes_width(ax) + LEFT_OF_AXIS
    # matplotlib fills the columns as array_split does, and a column is as wide as its widest entry.
    columns = next((n for n in (3, 2) if sum(max(c, default=0) for c in np.array_split(widths, n)) <= available), 1)
    inches = root_figure(ax).dpi_scale_trans
    below = ax.transAxes + ScaledTranslation(-LEFT_OF_AXIS / 72, -room / 72, inches)
    ax.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, ncols=columns,
        columnspacing=1, borderaxespad=0, fontsize=size,
    )  # fmt: skip


def is_upright(groups: Sequence[str]) -> bool:
    """Return whether a name is too long to be written along the axis."""
    return max(len(short_label(group)) for group in groups) > _LONGEST_HORIZONTAL


def room_below(groups: Sequence[str]) -> float:
    """Return the room that layer names and the axis title take below an axis, in points."""
    if not is_upright(groups):
        return BELOW_AXIS
    size = float(RC["xtick.labelsize"])
    return BELOW_AXIS + 0.62 * size * max(len(short_label(group)) for group in groups) - size


def extra_height(groups: Sequence[str]) -> float:
    """Return the height that upright names add to a figure, in inches."""
    return (room_below(groups) - BELOW_AXIS) / 72


def label_layers(ax: Axes, groups: Sequence[str]) -> float:
    """Write layer names, in depth order, below an axis with layer i at x = i; return the room that they take."""
    labels = [short_label(group) for group in groups]
    room = LAYOUT_TAKES * axes_width(ax) / max(len(groups), 1)
    size = float(RC["xtick.labelsize"])
    upright = is_upright(groups)
    widths = [1.25 * size if upright else 0.64 * size * len(label) for label in labels]
    shown = sparse_positions(widths, room)
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.set_xticks(shown, [labels[i] for i in shown], rotation=90 if upright else 0)
    ax.xaxis.set_minor_locator(FixedLocator(list(range(len(groups)))))
    ax.set_xlabel(axis_title(groups))
    return room_below(groups)
