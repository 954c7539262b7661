"""Templates: every value is escaped, and the page forbids itself to request anything."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

GENERATOR = "gsnr-toolkit"
"""Name in the head of every page, by which a page of this package is recognised."""


@cache
def _environment() -> Environment:
    loader = PackageLoader("gsnr_toolkit.report.pages")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(template: str, **values: Any) -> str:
    """Fill in a template.

    Args:
        template: Name of a file in ``templates/``.
        **values: Variables of the template; text is escaped.

    Returns:
        A whole page. Its content security policy allows its own style and script, and no request.
    """
    environment = _environment()
    script = environment.get_template("tables.js").render()
    # The hash lets this one script run; any script that an escaped value smuggled in would not match it.
    digest = base64.b64encode(hashlib.sha256(script.encode("utf8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return environment.get_template(template).render(
        generator=f"{GENERATOR} {version(GENERATOR)}",
        policy=policy,
        style=Markup(environment.get_template("page.css").render()),
        script=Markup(script),
        **values,
    )
