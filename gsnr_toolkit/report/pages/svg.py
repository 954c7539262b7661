"""Figures inside a page: SVG that several figures may share a document with."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REFERENCE = re.compile(r"#([^\s)\"']+)")
_DROPPED = ("metadata", "style")  # names of outside places; rules that would reach the whole page


@dataclass(frozen=True)
class Picture:
    """A figure of a page.

    Attributes:
        title: What is shown.
        caption: What to look at.
        svg: The picture; None where it could not be drawn.
        reason: Why not.
        width: Its natural width, in points.
    """

    title: str
    caption: str
    svg: Markup | None
    reason: str = ""
    width: float = 0.0


def draw(name: str, title: str, caption: str, plot: Callable[[], Figure]) -> Picture:
    """Draw a figure for a page.

    Args:
        name: Distinguishes it from the page's other figures.
        title: What is shown.
        caption: What to look at.
        plot: Makes the figure.

    Returns:
        The figure; a plot that raises a ValueError leaves its reason in its place, and the page its other figures.

    >>> draw("a", "COR", "by layer", lambda: float("nothing")).reason
    "could not convert string to float: 'nothing'"
    """
    try:
        figure = plot()
        svg = inline_svg(figure, name, f"{title}. {caption}")
    except ValueError as error:
        return Picture(title, caption, None, reason=str(error))
    return Picture(title, caption, svg, width=72 * float(figure.get_figwidth()))


def inline_svg(figure: Figure, name: str, label: str) -> Markup:
    """Render a figure as an SVG element.

    Letters are drawn as outlines, so that no font is needed. Every id that something refers to begins with ``name``,
    all others are taken out: matplotlib gives the same ids to every figure.

    Args:
        figure: The figure.
        name: Letters and digits, different for every figure of a page.
        label: The figure in words, for those who do not see it.

    Returns:
        Markup that is safe in a page; equal figures give equal markup.

    >>> from gsnr_toolkit.report.plots.style import new_figure
    >>> markup = inline_svg(new_figure(), "empty", "Nothing < something")
    >>> markup.startswith('<svg viewBox='), 'aria-label="Nothing &lt; something"' in markup
    (True, True)
    """
    import matplotlib as mpl

    from gsnr_toolkit.report.plots.style import paper_style

    buffer = BytesIO()
    with paper_style(), mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    attributes = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    _clean(root)
    _rename(root, name)
    root.attrib.clear()
    root.attrib.update(attributes)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _clean(element: ElementTree.Element) -> None:
    """Take out what has no place in a page, and the namespaces, which HTML knows without being told."""
    for child in list(element):
        if _local(child.tag) in _DROPPED:
            element.remove(child)
        else:
            _clean(child)
    element.tag = _local(element.tag)
    element.attrib = {_local(name): value for name, value in element.attrib.items()}
    element.tail = None
    if element.text is not None and not element.text.strip():
        element.text = None


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _rename(root: ElementTree.Element, name: str) -> None:
    """Give new names to ids that are referred to; take the others out."""
    used = [value for element in root.iter() for key, value in element.attrib.items() if key != "id" and "#" in value]
    names = dict.fromkeys(found for value in used for found in _REFERENCE.findall(value))
    ids = {element.attrib["id"] for element in root.iter() if "id" in element.attrib}
    new = {old: f"{name}-{number}" for number, old in enumerate(old for old in names if old in ids)}
    for element in root.iter():
        old = element.attrib.pop("id", None)
        for key, value in element.attrib.items():
            if "#" in value:
                element.attrib[key] = _REFERENCE.sub(lambda found: f"#{new.get(found[1], found[1])}", value)
        if old in new:
            element.attrib["id"] = new[old]
