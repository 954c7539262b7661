"""Extension of griffe: the few marks of reStructuredText in docstrings, as Markdown."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([^`]+)`")
_INLINE = re.compile(r":math:`([^`]+)`")
_EXAMPLE = re.compile(r"^>>> .*(?:\n(?! *$).*)*", re.MULTILINE)
_BLOCK = re.compile(r"^\.\. math:: *(.*(?:\n(?: +.*)?)*)", re.MULTILINE)


class Markdown(griffe.Extension):
    """Rewrites the docstring of every object that is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Roles as code, formulas between dollars, examples between fences."""
    text = _BLOCK.sub(lambda found: f"\n$$\n{_one_line(found[1])}\n$$\n\n", text)
    text = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
    return _ROLE.sub(r"`\1`", _INLINE.sub(r"$\1$", text))


def _one_line(block: str) -> str:
    return " ".join(textwrap.dedent(block).split())
