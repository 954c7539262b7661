"""Public names that a package imports on first use, so that importing the package itself loads nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(
    package: str, homes: Mapping[str, str], *, ready: tuple[str, ...] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Build the three module attributes through which a package offers names that it has not imported yet.

    Assign them at the end of the package's ``__init__.py``, as PEP 562 asks::

        __getattr__, __dir__, __all__ = lazy_exports(__name__, {"open_dataset": "gsnr_toolkit.data.registry"})

    Args:
        package: The package's ``__name__``.
        homes: Public name to the full name of the module that defines it.
        ready: Public names that the package already holds, such as ``__version__``.

    Returns:
        ``__getattr__``, which imports a name on first use and keeps it, ``__dir__`` and ``__all__``.

    >>> getattr_, _, names = lazy_exports(__name__, {"hypot": "math"})
    >>> getattr_("hypot")(3, 4), names
    (5.0, ['hypot'])
    """
    public = sorted([*homes, *ready])

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; public names: {', '.join(public)}")
        value = getattr(import_module(homes[name]), name)
        # Python asks __getattr__ only for names that it does not find, so a stored value is looked up no more.
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: public, public
