"""All rules, by the operation they serve.

Every module of this folder registers its rules with :func:`~gsnr_toolkit.gradients.taps.rules.use.rule`; a new rule
therefore needs one file here and no other change.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from gsnr_toolkit.gradients.taps import rules
from gsnr_toolkit.gradients.taps.rules.use import RULES

__all__ = ["RULES"]

for _module in iter_modules(rules.__path__):
    if _module.name != "table":
        import_module(f"{rules.__name__}.{_module.name}")
