"""Templates: every value is escaped, and the page forbids itself to ask for anything."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

GENERATOR = "gsnr-toolkit"
"""Named in the head of every page, by which a page of ours is known."""


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("gsnr_toolkit.report.pages")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(template: str, **values: Any) -> str:
    """Fill in a template.

    Args:
        template: Name of a file in ``templates/``.
        **values: What it names; text is escaped.

    Returns:
        A whole page. Its content security policy allows its own style and script, and no request.
    """
    from gsnr_toolkit import __version__

    environment = _environment()
    script = environment.get_template("tables.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode("utf8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return environment.get_template(template).render(
        generator=f"{GENERATOR} {__version__}",
        policy=policy,
        style=Markup(environment.get_template("page.css").render()),
        script=Markup(script),
        **values,
    )
