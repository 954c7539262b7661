"""Hooks for mkdocs: convert formulas to MathML, and add pages from outside docs/ to the site."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
BESIDE = {
    "../analyses/README.md": "analyses.md",
    "../CHANGELOG.md": "changelog.md",
    "../figures/radius_study.png": "figures/radius_study.png",
    "../figures/radius_controllers.png": "figures/radius_controllers.png",
    "../figures/radius_traces.png": "figures/radius_traces.png",
}
"""Links from docs/ to files outside it, and the page or picture of the site for each of them."""

_FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.DOTALL)

_TIGHT = re.compile(r"<mo[^>]*>(\||&#x0007C;|&#x02016;|&#x0002F;|/)</mo>")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages and pictures from outside docs/."""
    for source, page in BESIDE.items():
        path = ROOT / "docs" / source
        files.append(File.generated(config, page, abs_src_path=str(path.resolve())))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to files outside docs/ at their pages on the site."""
    for source, page in BESIDE.items():
        markdown = markdown.replace(f"]({source}", f"]({page}")
    return markdown


def on_page_content(content: str, **_: Any) -> str:
    """Convert formulas to MathML, which browsers render without a script."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    inline, display = found[2], found[3]
    latex = html.unescape(inline if display is None else display).strip()
    formula = convert(latex, display="inline" if display is None else "block")
    # Bars are brackets here, and a slash is a fraction. As operators they would get spaces around them.
    return _TIGHT.sub(r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', formula)
