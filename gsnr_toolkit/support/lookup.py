"""Names to rows of data: lazy ``module:function`` targets and "did you mean" for a name nobody registered.

A registry row is plain data (a frozen dataclass); the code it stands for is a *string*, imported only when it
is asked for. So listing the models or the data sets imports neither torch nor open_clip.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, TypeVar

from gsnr_toolkit.errors import ProbeError

__all__ = [
    "Registry",
    "TargetError",
    "UnknownNameError",
    "call_with_known",
    "did_you_mean",
    "is_target",
    "load_target",
]

Row = TypeVar("Row")

_NAMED = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


class UnknownNameError(ProbeError):
    """A name that is in no row of the registry it was looked up in."""


class TargetError(ProbeError):
    """A ``module:function`` string that does not lead to a function."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name, as a sentence that can follow another.

    Args:
        name: What was asked for.
        known: What there is.

    Returns:
        ``" Did you mean 'x'?"`` with a leading space, or the empty string where nothing is near.

    >>> did_you_mean("clip-vit-l41", ["clip-vit-l14", "clip-demo"])
    " Did you mean 'clip-vit-l14'?"
    >>> did_you_mean("zebra", ["clip-demo"])
    ''
    """
    folded = {candidate.casefold(): candidate for candidate in known}
    asked = name.casefold()
    near = difflib.get_close_matches(asked, folded, n=1) or [key for key in folded if key.startswith(asked)]
    return f" Did you mean {folded[near[0]]!r}?" if asked and near else ""


@dataclass(frozen=True)
class Registry(Generic[Row]):
    """An immutable table of named rows.

    Attributes:
        kind: What a row is, in words, for error messages ("model", "data set").
        rows: The rows by name, in the order in which they are listed.
        hint: A sentence on what else is accepted in place of a name; it closes the error message.

    >>> planets = Registry("planet", {"mars": 4, "venus": 2}, hint="Or give a distance.")
    >>> planets["mars"], planets.names
    (4, ('mars', 'venus'))
    >>> planets["marz"]
    Traceback (most recent call last):
    gsnr_toolkit.support.lookup.UnknownNameError: no planet is called 'marz'. Did you mean 'mars'? ...
    """

    kind: str
    rows: Mapping[str, Row]
    hint: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The registered names, in their order."""
        return tuple(self.rows)

    def __getitem__(self, name: str) -> Row:
        try:
            return self.rows[name]
        except KeyError:
            raise UnknownNameError(self._unknown(name)) from None

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def _unknown(self, name: str) -> str:
        hint = f" {self.hint}" if self.hint else ""
        names = ", ".join(self.rows)
        return f"no {self.kind} is called {name!r}.{did_you_mean(name, self.rows)} Known names: {names}.{hint}"


def is_target(name: str) -> bool:
    """Tell whether a name has the form ``module:function`` (dotted identifiers on both sides of one colon).

    Args:
        name: A name as a user gave it.

    Returns:
        True for ``"my_models:build"``, False for ``"clip-demo"`` and ``"image-folder:/data"``.

    >>> is_target("pkg.models:build"), is_target("image-folder:/data"), is_target("clip-demo")
    (True, False, False)
    """
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")])


def load_target(target: str) -> Any:
    """Import what ``"module:function"`` names.

    The module is looked for like any import, and then in the current directory, so that a file next to which
    a command is run needs no installation. The search path is left as it was found.

    Args:
        target: ``"package.module:attribute"``; the attribute may be dotted.

    Returns:
        The attribute.

    Raises:
        TargetError: If the string has another form, or the module or the attribute does not exist. An error
            *inside* the module (say, one of its own imports is missing) is left as it is.

    >>> load_target("math:hypot")(3, 4)
    5.0
    >>> load_target("math:hypotenuse")
    Traceback (most recent call last):
    gsnr_toolkit.support.lookup.TargetError: module 'math' has no attribute 'hypotenuse'. ...
    """
    if not is_target(target):
        raise TargetError(f"expected 'module:function', such as 'my_module:build', but got {target!r}")
    module_name, _, attribute = target.partition(":")
    found: Any = _import_module(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in dir(found) if not name.startswith("_")]
            listed = ", ".join(public[:12]) + (", ..." if len(public) > 12 else "")
            raise TargetError(
                f"module {module_name!r} has no attribute {attribute!r}.{did_you_mean(part, public)}"
                f" It has: {listed or 'nothing public'}"
            )
        found = getattr(found, part)
    return found


def call_with_known(function: Callable[..., Any], offered: Mapping[str, Any], required: Iterable[str] = ()) -> Any:
    """Call a user's function with those of the offered arguments that it names.

    Args:
        function: The function; one with ``**kwargs`` is given everything.
        offered: Keyword arguments by name.
        required: The names that the user set himself: it is an error if the function does not take one.

    Returns:
        What the function returns.

    Raises:
        TargetError: If it is no function, or a required argument is not among its parameters.

    >>> call_with_known(lambda seed: seed + 1, {"seed": 1, "split": "test"})
    2
    """
    if not callable(function):
        raise TargetError(f"expected a function, got {function!r}: name a function that builds it")
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return function(**offered)
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    refused = sorted(set(required) - named)
    if refused:
        takes = ", ".join(sorted(named)) or "no argument"
        raise TargetError(
            f"{getattr(function, '__qualname__', function)} takes {takes}, but was also given "
            f"{', '.join(refused)}: add that to its parameters, or leave the option out"
        )
    unmet = [p.name for p in parameters if p.default is p.empty and p.name not in offered and p.kind in _NAMED]
    if unmet:
        raise TargetError(
            f"{getattr(function, '__qualname__', function)} cannot be called without {', '.join(unmet)}; "
            f"it may name any of {', '.join(offered)}, and anything else needs a default"
        )
    return function(**{key: value for key, value in offered.items() if key in named})


def _import_module(name: str) -> ModuleType:
    # The current directory comes last, so that it cannot shadow an installed module.
    here = os.getcwd()
    searched = here in sys.path or "" in sys.path
    if not searched:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != name and not name.startswith(f"{missing}."):
            raise  # the user's module was found, but one of its own imports was not
        raise TargetError(
            f"no module called {name!r}: it is neither installed nor in the current directory ({here})."
            f" Run from the directory that holds it, or add that directory to PYTHONPATH"
        ) from None
    finally:
        if not searched:
            sys.path.remove(here)
