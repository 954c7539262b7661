"""Frozen config dataclasses whose fields state their meaning and range, and the one way to check and read them.

A field made by :func:`setting` carries its help text, its kind and its allowed range. From these, the config checks
itself (:func:`check_settings`), reads text from files (:func:`read_settings`), describes itself
(:func:`describe_settings`), and becomes command-line options (``commands/common.py``).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, asdict, field, fields
from numbers import Integral, Real
from typing import Any, Self

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.lookup import did_you_mean

__all__ = ["Settings", "check_settings", "describe_settings", "read_settings", "setting", "settle_settings"]


class Settings:
    """Mixin that serialises, parses and hashes a frozen dataclass whose fields :func:`setting` made."""

    @property
    def key(self) -> str:
        """Twelve characters that differ whenever a field differs."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Return field name to value, for a file or a table; tuples become lists."""
        values: dict[str, Any] = asdict(self)  # type: ignore[call-overload]  # only subclasses are dataclasses
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a config from plain values, such as those of a file.

        Args:
            values: Field name to value; a number may be written as text.

        Returns:
            The config.

        Raises:
            ProbeError: If a name is unknown or a value is out of range.
        """
        return cls(**read_settings(cls, values))


def setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
    kind: type = str,
    of: type = str,
    accept: Callable[[Any], bool] | None = None,
    wanted: str = "",
) -> Any:
    """Make a dataclass field that carries its meaning and its range.

    Args:
        default: The default value. A field whose default is None accepts None.
        text: The meaning, as a sentence.
        low: Smallest number allowed.
        high: Largest number allowed.
        above: Number that the value must exceed.
        below: Number that the value must stay under.
        choices: The only values allowed, if there are few.
        words: Values allowed in addition to those of the kind, such as ``"auto"`` beside numbers.
        kind: ``str``, ``int``, ``float``, ``bool``, ``tuple``, or ``object`` for a value that is checked elsewhere.
        of: Kind of a tuple's items.
        accept: Test that replaces the check by kind and range.
        wanted: Description of the range for the error message; derived from kind and range if empty.

    Returns:
        The field.
    """
    limits = {"low": low, "high": high, "above": above, "below": below, "choices": choices, "words": words}
    checks = {"kind": kind, "of": of, "accept": accept, "wanted": wanted}
    return field(default=default, metadata={"help": text, **limits, **checks})


def settle_settings(config: Any) -> None:
    """Bring every field of a frozen config to one form and check its range.

    Args:
        config: Instance of a dataclass whose fields :func:`setting` made; other fields are left alone.

    Raises:
        ProbeError: If a value is out of range; the message names the field, the range and the value.
    """
    for item in _settings_of(config):
        object.__setattr__(config, item.name, _one_form(item, getattr(config, item.name)))
    check_settings(config)


def check_settings(config: Any) -> None:
    """Check the range of every field, and leave the values as the caller gave them.

    Args:
        config: Instance of a dataclass whose fields :func:`setting` made; other fields are left alone.

    Raises:
        ProbeError: If a value is out of range; the message names the field, the range and the value.
    """
    for item in _settings_of(config):
        value = getattr(config, item.name)
        if not _is_allowed(item, value):
            raise ProbeError(f"expected {item.name} to be {_wanted(item)}, got {value!r}; {_remedy(item, value)}")


def describe_settings(config: type[Any]) -> dict[str, str]:
    """Return meaning and default of every field.

    Args:
        config: Dataclass whose fields :func:`setting` made.

    Returns:
        Field name to a line of help.
    """
    return {item.name: f"{item.metadata['help']} Default: {item.default}" for item in fields(config)}


def read_settings(config: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert text from a file or a command line to the kinds of the fields.

    Args:
        config: Dataclass whose fields :func:`setting` made.
        values: Field name to value; a number may be written as text.

    Returns:
        Field name to value. A value that cannot be converted stays as it was, for the check to refuse.

    Raises:
        ProbeError: If a name is unknown.
    """
    known = {item.name: item for item in fields(config)}
    for name in values:
        if name not in known:
            raise ProbeError(
                f"expected the name of a setting, got {name!r}; use one of {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )
    return {name: _read(known[name], value) for name, value in values.items()}


def _settings_of(config: Any) -> Iterator[Field[Any]]:
    return (item for item in fields(config) if "kind" in item.metadata)


def _read(item: Field[Any], value: Any) -> Any:
    kind = item.metadata["kind"]
    if not isinstance(value, str) or kind in (str, object) or value in item.metadata["words"]:
        return value
    if kind is tuple:
        of = item.metadata["of"]
        parts = [part for part in value.split(",") if part or of is not str]  # a missing number is an error
        return _convert(lambda _: tuple(of(part) for part in parts), value)
    if value.lower() == "none":
        return None
    if kind is bool:
        return {"true": True, "on": True, "false": False, "off": False}.get(value.lower(), value)
    return _convert(kind, value)


def _convert(convert: Callable[[str], Any], text: str) -> Any:
    try:
        return convert(text)
    except ValueError:
        return text


def _one_form(item: Field[Any], value: Any) -> Any:
    """Return one form of each value, so that rho=0 and rho=0.0 have one key."""
    kind = item.metadata["kind"]
    if kind is tuple and isinstance(value, (list, tuple, set, frozenset)):
        return tuple(value)
    if kind is float and _is_number(value, Real):
        return float(value)
    return int(value) if kind is int and _is_number(value, Integral) else value


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_allowed(item: Field[Any], value: Any) -> bool:
    meta = item.metadata
    kind = meta["kind"]
    if (value is None and item.default is None) or (isinstance(value, str) and value in meta["words"]):
        return True
    if meta["accept"] is not None:
        return bool(meta["accept"](value))
    if meta["choices"]:
        return value in meta["choices"]
    if kind is str:
        return isinstance(value, str) and bool(value)
    if kind is tuple:
        return isinstance(value, tuple) and all(isinstance(part, meta["of"]) for part in value)
    if kind in (int, float):
        return _is_number(value, Integral if kind is int else Real) and _in_range(meta, value)
    return isinstance(value, kind)


def _in_range(meta: Mapping[str, Any], value: float) -> bool:
    if not isinstance(value, Integral) and not math.isfinite(value):
        return False
    low, high, above, below = meta["low"], meta["high"], meta["above"], meta["below"]
    over = (low is None or value >= low) and (above is None or value > above)
    return over and (high is None or value <= high) and (below is None or value < below)


def _wanted(item: Field[Any]) -> str:
    meta = item.metadata
    if meta["wanted"]:
        return str(meta["wanted"])
    if meta["choices"]:
        return f"one of {', '.join(map(repr, meta['choices']))}"
    if meta["kind"] in (int, float):
        limits = {"above": "above", "low": "from", "high": "up to", "below": "below"}
        noun = "a whole number" if meta["kind"] is int else "a number"
        return " ".join([noun, *(f"{word} {meta[key]}" for key, word in limits.items() if meta[key] is not None)])
    return {bool: "true or false", tuple: "names of data sets"}.get(meta["kind"], "a name")


def _remedy(item: Field[Any], value: Any) -> str:
    known = (*item.metadata["choices"], *item.metadata["words"])
    meant = did_you_mean(value, known) if isinstance(value, str) else ""
    default = "" if item.default is None else f", {item.default!r}"
    return f"change it, or leave it out for the default{default}" + (f".{meant}" if meant else "")
