"""Look up names: registries with "did you mean", and ``module:function`` targets that are imported on use.

A registry row is plain data (a frozen dataclass). It names its code as a *string*, which is imported only when the code
runs. Listing the models or the data sets therefore imports neither torch nor open_clip.
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
from gsnr_toolkit.support.arguments import shown

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
    """A name without a row in the registry."""


class TargetError(ProbeError):
    """A ``module:function`` string that does not name a usable function."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name, as a sentence to append to a message.

    Args:
        name: The unknown name.
        known: The known names.

    Returns:
        ``" Did you mean 'x'?"`` with a leading space, or the empty string if no known name is near.

    >>> did_you_mean("clip-vit-l41", ["clip-vit-l14", "clip-demo"])
    " Did you mean 'clip-vit-l14'?"
    >>> did_you_mean("zebra", ["clip-demo"])
    ''
    """
    if not isinstance(name, str):
        return ""
    folded = {candidate.casefold(): candidate for candidate in known}
    asked = name.casefold()
    # get_close_matches compares whole names; an abbreviation ("celeb" for "celebdf-v2") is too short for it
    near = difflib.get_close_matches(asked, folded, n=1) or [key for key in folded if key.startswith(asked)]
    return f" Did you mean {folded[near[0]]!r}?" if asked and near else ""


@dataclass(frozen=True)
class Registry(Generic[Row]):
    """An immutable table of named rows.

    Attributes:
        kind: Noun for a row in error messages, such as "model" or "data set".
        rows: The rows by name, in listing order.
        hint: Sentence on what else is accepted in place of a name, for error messages.

    >>> planets = Registry("planet", {"mars": 4, "venus": 2}, hint="Or give a distance.")
    >>> planets["mars"], planets.names
    (4, ('mars', 'venus'))
    >>> planets["marz"]
    Traceback (most recent call last):
    gsnr_toolkit.support.lookup.UnknownNameError: expected a known planet, got 'marz'; choose one of mars, venus. ...
    """

    kind: str
    rows: Mapping[str, Row]
    hint: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The registered names, in listing order."""
        return tuple(self.rows)

    def __getitem__(self, name: str) -> Row:
        if isinstance(name, str) and name in self.rows:  # a list would not even be hashable
            return self.rows[name]
        choices = f"{', '.join(self.rows)}.{' ' * bool(self.hint)}{self.hint}"
        raise UnknownNameError(
            f"expected a known {self.kind}, got {shown(name)}; choose one of {choices}{did_you_mean(name, self.rows)}"
        )

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def is_target(name: str) -> bool:
    """Return whether a name has the form ``module:function`` (dotted identifiers on both sides of one colon).

    Args:
        name: A name from the user.

    Returns:
        True for ``"my_models:build"``, False for ``"clip-demo"`` and ``"image-folder:/data"``.

    >>> is_target("pkg.models:build"), is_target("image-folder:/data"), is_target("clip-demo")
    (True, False, False)
    """
    if not isinstance(name, str):
        return False
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")])


def load_target(target: str) -> Any:
    """Import the object that ``"module:function"`` names.

    The module is searched for like any import, and then in the current directory, so that a user's file there needs no
    installation. The search path is restored.

    Args:
        target: ``"package.module:attribute"``; the attribute may be dotted.

    Returns:
        The attribute.

    Raises:
        TargetError: If the string has another form, or the module or the attribute does not exist. An error
            *inside* the module (such as a missing import) is raised unchanged.

    >>> load_target("math:hypot")(3, 4)
    5.0
    >>> load_target("math:hypotenuse")
    Traceback (most recent call last):
    gsnr_toolkit.support.lookup.TargetError: expected an attribute of module 'math', got 'hypotenuse'; name one of ...
    """
    if not is_target(target):
        raise TargetError(f"expected 'module:function', got {target!r}; write it as 'my_module:build'")
    module_name, _, attribute = target.partition(":")
    found: Any = _import_module(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in dir(found) if not name.startswith("_")]
            listed = ", ".join(public[:12]) + (", ..." if len(public) > 12 else "")
            raise TargetError(
                f"expected an attribute of module {module_name!r}, got {attribute!r}; name one of "
                f"{listed or 'its private names, as it has no public ones'}.{did_you_mean(part, public)}"
            )
        found = getattr(found, part)
    return found


def call_with_known(function: Callable[..., Any], offered: Mapping[str, Any], required: Iterable[str] = ()) -> Any:
    """Call a user's function with those offered arguments that match its parameters.

    Args:
        function: The function; one with ``**kwargs`` receives all arguments.
        offered: Keyword arguments by name.
        required: Names that the user set explicitly, which the function must therefore take.

    Returns:
        The result of the function.

    Raises:
        TargetError: If it is not a function, does not take a required argument, or needs one that is not offered.

    >>> call_with_known(lambda seed: seed + 1, {"seed": 1, "split": "test"})
    2
    """
    if not callable(function):
        raise TargetError(f"expected a function, got {function!r}; name a function that builds the object")
    name = getattr(function, "__qualname__", function)
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return function(**offered)
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    refused = sorted(set(required) - named)
    if refused:
        takes = ", ".join(sorted(named)) or "no argument"
        raise TargetError(
            f"expected {name} to take {', '.join(refused)}, but it takes {takes}; add the parameter, or leave the "
            "option out"
        )
    unmet = [p.name for p in parameters if p.default is p.empty and p.name not in offered and p.kind in _NAMED]
    if unmet:
        raise TargetError(
            f"expected {name} to need only arguments among {', '.join(offered)}, but it needs {', '.join(unmet)}; give "
            "those parameters a default"
        )
    return function(**{key: value for key, value in offered.items() if key in named})


def _import_module(name: str) -> ModuleType:
    # The current directory comes last so that it cannot shadow an installed module.
    here = os.getcwd()
    searched = here in sys.path or "" in sys.path
    if not searched:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != name and not name.startswith(f"{missing}."):
            raise  # the user's module exists, but one of its own imports does not
        raise TargetError(
            f"expected an importable module, got {name!r}, which is neither installed nor in the current directory "
            f"({here}); run from the directory that holds it, or add that directory to PYTHONPATH"
        ) from None
    finally:
        if not searched:
            sys.path.remove(here)
