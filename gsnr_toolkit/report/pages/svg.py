"""Figures inside a page: SVG elements whose names do not clash with those of other figures."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from gsnr_toolkit.report.plots.style import paper_style

_REFERENCE = re.compile(r"#([^\s)\"']+)")
_DROPPED = ("metadata", "style")  # the first names outside addresses, the second would style the whole page


@dataclass(frozen=True)
class Picture:
    """A figure of a page.

    Attributes:
        title: Title.
        caption: What to look at.
        svg: The picture; None if it could not be drawn.
        reason: Why it could not be drawn.
        width: Natural width, in points.
    """

    title: str
    caption: str
    svg: Markup | None
    reason: str = ""
    width: float = 0.0


def draw(name: str, title: str, caption: str, plot: Callable[[], Figure]) -> Picture:
    """Draw a figure for a page.

    Args:
        name: Distinguishes the figure from the others of the page.
        title: Title.
        caption: What to look at.
        plot: Returns the figure.

    Returns:
        The figure. If `plot` raises a ValueError, its message takes the place of the figure, and the page keeps its
        other figures.

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

    Letters are drawn as outlines, so that no font is needed. matplotlib gives the same ids to every figure; here ids
    that are referred to get the prefix `name`, and all others are removed.

    Args:
        figure: The figure.
        name: Letters and digits, different for every figure of a page.
        label: Description for screen readers.

    Returns:
        Markup that is safe in a page; equal figures give equal markup.

    >>> from gsnr_toolkit.report.plots.style import new_figure
    >>> markup = inline_svg(new_figure(), "empty", "Nothing < something")
    >>> markup.startswith('<svg viewBox='), 'aria-label="Nothing &lt; something"' in markup
    (True, True)
    """
    buffer = BytesIO()
    with paper_style(), matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    attributes = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    _clean(root)
    _rename(root, name)
    root.attrib.clear()
    root.attrib.update(attributes)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _clean(element: ElementTree.Element) -> None:
    """Remove what does not belong in a page, and the namespaces, which HTML does not need."""
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
    """Rename the ids that are referred to, and remove the others."""
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
