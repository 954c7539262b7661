"""Fields of frozen configs that carry their meaning and their range, read from text and checked by them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import Field, asdict, field, fields
from typing import Any, Self

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.lookup import did_you_mean

__all__ = ["Settings", "describe_settings", "read_settings", "setting", "settle_settings"]


class Settings:
    """What a frozen dataclass whose fields :func:`setting` made can do: be written, read, and told from others."""

    @property
    def key(self) -> str:
        """Twelve characters that differ whenever a field differs."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file or a table.

        Returns:
            Field name to value; tuples as lists.
        """
        values: dict[str, Any] = asdict(self)  # type: ignore[call-overload]  # the mixin of dataclasses is none itself
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a config from plain values, such as a file's.

        Args:
            values: Field name to value; a number may be written as text.

        Returns:
            The config.

        Raises:
            ProbeError: If a name is unknown or a value out of its range.
        """
        return cls(**read_settings(cls, values))


def setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
    kind: type = str,
) -> Any:
    """Make a field of a dataclass.

    Args:
        default: Its default; a field with the default None may be None.
        text: Its meaning, a sentence.
        low: Smallest number allowed.
        high: Largest number allowed.
        above: What a number has to exceed.
        choices: The only values allowed, where there are few.
        words: Values allowed besides those of the kind.
        kind: ``str``, ``int``, ``float``, ``bool``, or ``tuple`` for several names.

    Returns:
        The field.
    """
    limits = {"low": low, "high": high, "above": above, "choices": choices, "words": words, "kind": kind}
    return field(default=default, metadata={"help": text, **limits})


def settle_settings(config: Any) -> None:
    """Bring every field of a frozen config to one form, and check it by its range.

    Args:
        config: A dataclass whose fields :func:`setting` made.

    Raises:
        ProbeError: If a value is out of its range; names the field, the range and the value.
    """
    for item in fields(config):
        value = _one_form(item, getattr(config, item.name))
        _check(item, value)
        object.__setattr__(config, item.name, value)


def describe_settings(config: type[Any]) -> dict[str, str]:
    """Meaning and default of every field.

    Args:
        config: A dataclass whose fields :func:`setting` made.

    Returns:
        Field name to a line of help.
    """
    return {item.name: f"{item.metadata['help']} Default: {item.default}" for item in fields(config)}


def read_settings(config: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what a file or a command line says into the fields' kinds.

    Args:
        config: A dataclass whose fields :func:`setting` made.
        values: Field name to value; a number may be written as text.

    Returns:
        Field name to value; what cannot be turned is left as it is, for the check to refuse.

    Raises:
        ProbeError: If a name is unknown.
    """
    known = {item.name: item for item in fields(config)}
    for name in values:
        if name not in known:
            raise ProbeError(f"no setting is called {name!r}.{did_you_mean(name, known)} Known are {', '.join(known)}")
    return {name: _read(known[name], value) for name, value in values.items()}


def _read(item: Field[Any], value: Any) -> Any:
    kind = item.metadata["kind"]
    if kind is tuple:
        return tuple(part for part in value.split(",") if part) if isinstance(value, str) else value
    if not isinstance(value, str) or kind is str or value in item.metadata["words"]:
        return value
    if value.lower() == "none":
        return None
    if kind is bool:
        return {"true": True, "on": True, "false": False, "off": False}.get(value.lower(), value)
    try:
        return kind(value)
    except ValueError:
        return value


def _one_form(item: Field[Any], value: Any) -> Any:
    """One form of each value, so that rho=0 and rho=0.0 have one key."""
    if item.metadata["kind"] is tuple and not isinstance(value, str):
        return tuple(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if item.metadata["kind"] is float and whole else value


def _check(item: Field[Any], value: Any) -> None:
    meta = item.metadata
    if value is None and item.default is None:
        return
    if isinstance(value, str) and value in meta["words"]:
        return
    if meta["choices"]:
        good, wanted = value in meta["choices"], f"one of {', '.join(map(repr, meta['choices']))}"
    elif meta["kind"] is tuple:
        good = isinstance(value, tuple) and all(isinstance(part, str) for part in value)
        wanted = "names of data sets"
    elif meta["kind"] is bool:
        good, wanted = isinstance(value, bool), "true or false"
    elif meta["kind"] is str:
        good, wanted = isinstance(value, str) and bool(value), "a name"
    else:
        good, wanted = _in_range(meta, value), _range_text(meta)
    if not good:
        raise ProbeError(f"expected {item.name} to be {wanted}, got {value!r}")


def _in_range(meta: Mapping[str, Any], value: Any) -> bool:
    kinds = (int,) if meta["kind"] is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        return False
    low, high, above = meta["low"], meta["high"], meta["above"]
    return (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)


def _range_text(meta: Mapping[str, Any]) -> str:
    noun = "a whole number" if meta["kind"] is int else "a number"
    parts = [f"above {meta['above']}"] if meta["above"] is not None else []
    parts += [f"from {meta['low']}"] if meta["low"] is not None else []
    parts += [f"up to {meta['high']}"] if meta["high"] is not None else []
    return " ".join([noun, *parts])
