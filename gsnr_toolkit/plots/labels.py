"""Layer names on an axis: short, in depth order, thinned where they would touch, never clipped."""

import re
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from gsnr_toolkit.plots.style import RC

_NUMBERED = re.compile(r"^(?:block|layer|stage)\s+(\d+)$")
_LONGEST = 22


def short_label(group: str) -> str:
    """Shorten a group's name for an axis: the number of a numbered block, the end of a long path.

    Example:
        >>> short_label("block 7"), short_label("visual.transformer.resblocks.0.attn")
        ('7', '…mer.resblocks.0.attn')
    """
    numbered = _NUMBERED.match(group)
    if numbered:
        return numbered.group(1)
    return group if len(group) <= _LONGEST else "…" + group[-(_LONGEST - 2) :]


def axis_title(groups: Sequence[str]) -> str:
    """Name the axis: "block" where groups are numbered blocks, else "layer".

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
        if all(apart(i, j) for i, j in zip(inner, inner[1:], strict=False)):
            return [0, *inner, last]
    return [0, last]


def label_layers(ax: Axes, groups: Sequence[str], *, title: bool = True) -> None:
    """Write layer names below an axis on which layer i stands at x = i.

    Args:
        ax: Axes; its x limits are set to show every layer.
        groups: Group names in depth order.
        title: Whether to name the axis.
    """
    labels = [short_label(group) for group in groups]
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)  # an axes that can be drawn on belongs to a figure
    room = 72 * figure.get_figwidth() * ax.get_position().width / max(len(groups), 1)
    size = float(RC["xtick.labelsize"])
    upright = max(map(len, labels)) > 6
    widths = [1.25 * size if upright else 0.64 * size * len(label) for label in labels]
    shown = sparse_positions(widths, room)
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.set_xticks(shown, [labels[i] for i in shown], rotation=90 if upright else 0)
    ax.xaxis.set_minor_locator(FixedLocator(list(range(len(groups)))))
    if title:
        ax.set_xlabel(axis_title(groups))
