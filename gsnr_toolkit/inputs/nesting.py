"""How batches are nested: the parts of a container, and a container of the same type with other parts."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.withheld import WithheldField

ATOMS: tuple[type, ...] = (str, bytes, int, float, complex, type(None), torch.Size, type, nn.Module, WithheldField)
"""Types that are never entered."""


def parts_of(value: Any) -> dict[Any, Any] | None:
    """Return the parts of a container by key, index or attribute, or None for a leaf.

    Containers are mappings, tuples, lists, data classes and namespaces. Attributes of a mapping that are no items, such
    as the encodings of a tokenizer's output, are parts too.

    Args:
        value: Any part of a batch.

    Returns:
        Label to part, in a fixed order.

    Raises:
        ProbeError: If it is a packed sequence, whose rows are time steps rather than samples.

    >>> parts_of({"x": 1, "y": [2]}), parts_of((3, 4)), parts_of("text")
    ({'x': 1, 'y': [2]}, {0: 3, 1: 4}, None)
    """
    if isinstance(value, (Tensor, *ATOMS)):
        return None
    if isinstance(value, PackedSequence):  # a named tuple
        raise ProbeError(
            "expected a batch whose tensors have one row per sample, got a PackedSequence; pass padded sequences and "
            "their lengths, and pack them inside the model"
        )
    if isinstance(value, (tuple, list)):
        return dict(enumerate(value))
    if type(value) is dict:
        return value
    if isinstance(value, dict):
        items = {id(item) for item in value.values()}
        return {**value, **{_Own(name): part for name, part in _own(value).items() if id(part) not in items}}
    if isinstance(value, UserDict):
        return vars(value)
    if isinstance(value, Mapping):
        return dict(value.items())
    if is_record(value):
        return {name: getattr(value, name) for name in _names(value)}
    return None


def rebuilt(value: Any, parts: list[Any]) -> Any:
    """Make a container of the same type from other parts, in the order of :func:`parts_of`; no ``__init__`` is run.

    Returns:
        The container, with all else as in the given one.

    Raises:
        ProbeError: If the container is of a type that cannot be made from its parts.

    >>> rebuilt({"x": 1, "y": [2]}, [3, 4])
    {'x': 3, 'y': 4}
    """
    if type(value) is dict:
        return dict(zip(value, parts, strict=True))
    if isinstance(value, (tuple, list)):
        return value._make(parts) if hasattr(value, "_make") else type(value)(parts)
    try:
        if isinstance(value, dict):
            return _other_dict(value, parts)
        if isinstance(value, Mapping) and not isinstance(value, UserDict):
            return _other_mapping(value, parts)
        return _with_attributes(value, dict(zip(parts_of(value) or {}, parts, strict=True)))
    except (TypeError, ValueError, AttributeError) as error:
        raise ProbeError(
            f"expected batches of containers that can be made again with fewer rows, got {type(value).__name__} "
            f"({error}); let the collate_fn return a dict, a tuple or a data class"
        ) from error


def walk(value: Any) -> Iterator[Any]:
    """Yield a value and everything below it but atoms, depth first."""
    yield value
    for part in (parts_of(value) or {}).values():
        if isinstance(part, Tensor):
            yield part
        elif not isinstance(part, ATOMS):
            yield from walk(part)


def holds_tensor(value: Any) -> bool:
    """Whether a value is a tensor, or a container with one anywhere inside."""
    return any(isinstance(part, Tensor) for part in walk(value))


def map_parts(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to the parts of a container; a container of equal parts is returned as it is, except a dict."""
    parts = parts_of(value)
    if parts is None:
        return value
    new = [function(part) for part in parts.values()]
    if type(value) is not dict and all(a is b for a, b in zip(new, parts.values(), strict=True)):
        return value
    return rebuilt(value, new)


class _Own(str):
    """Name of an attribute, which is never equal to a key of the same text."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def _own(value: dict[Any, Any]) -> dict[str, Any]:
    """Attributes of a dict of another type; none if its attributes are its items."""
    own = getattr(value, "__dict__", {})
    return {} if own is value else own


def is_record(value: Any) -> bool:
    """Whether a value is a data class, an attrs class or a namespace: a container whose parts are its attributes."""
    named = is_dataclass(value) or hasattr(type(value), "__attrs_attrs__") or isinstance(value, SimpleNamespace)
    return named and not isinstance(value, (type, Tensor, nn.Module))


def _names(value: Any) -> list[str]:
    own = list(getattr(value, "__dict__", {}))
    declared = fields(value) if is_dataclass(value) else getattr(value, "__attrs_attrs__", ())
    names = [field.name for field in declared] + own
    return [name for name in dict.fromkeys(names) if hasattr(value, name)]


def _with_attributes(value: Any, attributes: dict[str, Any]) -> Any:
    make = SimpleNamespace if isinstance(value, SimpleNamespace) else object
    new = make.__new__(type(value))
    for name, part in attributes.items():
        object.__setattr__(new, name, part)  # a frozen data class takes no other way
    return new


def _other_dict(value: dict[Any, Any], parts: list[Any]) -> Any:
    """A subclass of dict: its items, and its attributes, which may be the same objects."""
    base: Any = OrderedDict if isinstance(value, OrderedDict) else dict
    new: Any = type(value).__new__(type(value))
    for key, part in zip(value, parts, strict=False):
        base.__setitem__(new, key, part)
    if isinstance(value, defaultdict):
        new.default_factory = value.default_factory
    if getattr(value, "__dict__", None) is value:
        new.__dict__ = new
        return new
    mapped = {id(old): part for old, part in zip((parts_of(value) or {}).values(), parts, strict=True)}
    for name, old in _own(value).items():
        object.__setattr__(new, name, mapped[id(old)])
    return new


def _other_mapping(value: Mapping[Any, Any], parts: list[Any]) -> Any:
    """A mapping of another kind: around a dict among its attributes, or made from one."""
    items = dict(zip(value.keys(), parts, strict=True))
    own = dict(getattr(value, "__dict__", {}))
    inner = [name for name, held in own.items() if isinstance(held, dict) and _same(held, value)]
    new: Any
    if len(inner) == 1:
        new = _with_attributes(value, {**own, inner[0]: rebuilt(own[inner[0]], parts)})
    else:
        new = type(value)(items)  # type: ignore[call-arg]
    if not isinstance(new, type(value)) or not _same(items, new):
        raise TypeError("expected the items of the dict it was made from, got others; it cannot be made again")
    return new


def _same(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """Whether two mappings hold the same objects under the same keys."""
    return list(one) == list(other) and all(one[key] is other[key] for key in one)
