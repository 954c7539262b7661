"""All rules, by the operation that they serve.

This module imports every other module of the folder. Each of them registers its rules with the decorator
:func:`~gsnr_toolkit.gradients.taps.rules.use.rule`, so that a new rule needs one new file and no other change.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from gsnr_toolkit.gradients.taps import rules
from gsnr_toolkit.gradients.taps.rules.use import RULES

__all__ = ["RULES", "load_rules"]


def load_rules() -> None:
    """Import every module of this folder, so that all rules are registered."""
    for module in iter_modules(rules.__path__, f"{rules.__name__}."):
        if module.name != __name__:
            import_module(module.name)


load_rules()
