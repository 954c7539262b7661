"""How the settings of something that exists differ from those asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST = 4


def differences(theirs: Any, ours: Mapping[str, Any]) -> str:
    """List the first settings that differ, for a message.

    Args:
        theirs: Settings found in a file, whatever they are.
        ours: Settings asked for.

    Returns:
        Text; empty where they are equal.

    >>> differences({"rho": 0.1, "seed": 0}, {"rho": 0.05, "seed": 0})
    'rho 0.1 there, 0.05 here'
    """
    known = theirs if isinstance(theirs, Mapping) else {}
    names = [*ours, *(name for name in known if name not in ours)]
    odd = [name for name in names if known.get(name) != ours.get(name)]
    listed = [f"{name} {known.get(name)!r} there, {ours.get(name)!r} here" for name in odd[:_MOST]]
    return "; ".join([*listed, *([f"and {len(odd) - _MOST} more"] if len(odd) > _MOST else [])])
