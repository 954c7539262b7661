"""Check the kinds of arguments at the door, so that a wrong one is named there and fails nowhere deeper."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from gsnr_toolkit.errors import ProbeError

__all__ = [
    "COUNT", "FUNCTION", "INTEGER", "LOADER", "MAPPING", "NAME", "NUMBER", "PATH", "POSITIVE", "SEED", "TEXTS", "WHOLE",
    "Kind", "check_arguments", "check_state", "instance", "optional", "shown",
]  # fmt: skip

_LONGEST = 60


@dataclass(frozen=True)
class Kind:
    """What an argument has to be.

    Attributes:
        wanted: Description, such as ``"a path"``.
        accepts: Whether a value is of this kind.
        remedy: What to pass.
    """

    wanted: str
    accepts: Callable[[Any], bool]
    remedy: str


def check_arguments(**given: tuple[Any, Kind]) -> None:
    """Refuse arguments of a wrong kind.

    Args:
        **given: Argument name to its value and its kind.

    Raises:
        ProbeError: If a value is of another kind; the message names the argument.

    >>> check_arguments(folder=("runs", PATH), steps=(3, WHOLE))
    >>> check_arguments(folder=(None, PATH))
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected folder to be a path, got None; pass text or a pathlib.Path
    """
    for name, (value, kind) in given.items():
        if not kind.accepts(value):
            raise ProbeError(f"expected {name} to be {kind.wanted}, got {shown(value)}; {kind.remedy}")


def shown(value: Any) -> str:
    """Show a value in a message: itself if that is short, else its type.

    Returns:
        Text.

    >>> shown("ab"), shown([0] * 100), shown(math)
    ("'ab'", 'a list', 'a module')
    """
    text = repr(value)
    if len(text) <= _LONGEST and not text.startswith("<") and "\n" not in text and not callable(value):
        return text
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    article = "an" if name[:1].lower() in "aeiou" else "a"
    return f"the class {name}" if isinstance(value, type) else f"{article} {name}"


def optional(kind: Kind) -> Kind:
    """Return the kind that also accepts None."""
    return Kind(f"{kind.wanted} or None", lambda value: value is None or kind.accepts(value), kind.remedy)


def instance(of: type | tuple[type, ...], wanted: str, remedy: str) -> Kind:
    """Return the kind of the instances of a class."""
    return Kind(wanted, lambda value: isinstance(value, of), remedy)


def _number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _iterable(value: Any) -> bool:
    # a data set that has only __getitem__ is iterable too
    return not isinstance(value, (str, bytes)) and (
        isinstance(value, Iterable) or (hasattr(value, "__getitem__") and not isinstance(value, type))
    )


PATH = instance((str, os.PathLike), "a path", "pass text or a pathlib.Path")
NAME = instance(str, "a name", "pass text")
FUNCTION = Kind("a function", callable, "pass a function, or another object that can be called")
LOADER = Kind("an iterable of batches", _iterable, "pass a DataLoader, or a list of batches")
MAPPING = instance(Mapping, "a mapping", "pass a dict")
INTEGER = Kind("a whole number", lambda value: _number(value, Integral), "pass a whole number")
WHOLE = Kind("a whole number from 0", lambda value: _number(value, Integral) and value >= 0, "pass 0, 1, 2, ...")
COUNT = Kind("a whole number from 1", lambda value: _number(value, Integral) and value >= 1, "pass 1, 2, 3, ...")
SEED = Kind(
    "a seed, a whole number from 0 to 2^63 - 1",
    lambda value: _number(value, Integral) and 0 <= value < 2**63,
    "pass seed=0, for example",
)
TEXTS = Kind(
    "texts",
    lambda value: isinstance(value, (tuple, list)) and all(isinstance(each, str) for each in value),
    "pass a tuple of text",
)
NUMBER = Kind("a number", lambda value: _number(value, Real), "pass a number")
POSITIVE = Kind(
    "a positive number", lambda value: _number(value, Real) and 0 < value < math.inf, "pass a number above 0"
)


def check_state(state: Any, own: Mapping[str, Any], source: str) -> None:
    """Refuse a saved state that lacks an entry, before any of it is loaded.

    Args:
        state: The state to load.
        own: The present state, for the names of its entries.
        source: Where such a state comes from, such as ``"Recorder.state_dict()"``.

    Raises:
        ProbeError: If it is no mapping, or an entry is missing.

    >>> check_state({"step": 3}, {"step": 0}, "Run.state_dict()")
    """
    missing = [name for name in own if not isinstance(state, Mapping) or name not in state]
    if missing:
        got = f"one without {', '.join(missing)}" if isinstance(state, Mapping) else shown(state)
        raise ProbeError(f"expected a state saved by {source}, got {got}; load the state of the same object")
