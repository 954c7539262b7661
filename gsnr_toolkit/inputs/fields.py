"""Which fields of a batch have one entry per sample: sequences and arrays that are no tensors.

A sequence or array of the batch's length is a field: it has one entry per sample, and is cut and joined along with the
tensors. One of another length is shared by all samples, and so are numbers, texts and None. A list or tuple with a
tensor inside is nesting, whatever its length.

A batch that has been cut may by chance have as many rows as a shared list has entries. Therefore fields and shared
sequences are marked by their types when a batch is cut, and :class:`FieldWatch` remembers from one batch to the next
which ones are shared. Two lists of two names in a batch of two rows may be read either way, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from numbers import Number
from typing import Any

import numpy as np
from torch import Tensor

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.nesting import ATOMS, holds_tensor, is_record, parts_of, rebuilt, walk
from gsnr_toolkit.types import Batch


class SharedList(list[Any]):
    """A list that all samples share."""


class SharedTuple(tuple[Any, ...]):
    """A tuple that all samples share."""

    __slots__ = ()


class SharedArray(np.ndarray[Any, Any]):
    """An array that all samples share."""


class FieldList(list[Any]):
    """A list with one entry per sample."""


class FieldTuple(tuple[Any, ...]):
    """A tuple with one entry per sample."""

    __slots__ = ()


_DEPTH, _WIDTH = 4, 1000
"""How far objects of other types are looked into."""
_SHARED = (SharedList, SharedTuple, SharedArray)
_FIELD = (FieldList, FieldTuple)


def is_sequence(value: Any) -> bool:
    """Whether a value may have one entry per sample: a sequence or an array without tensors inside."""
    if isinstance(value, _FIELD):
        return True
    if isinstance(value, (*ATOMS, bytearray, memoryview)):
        return False
    if isinstance(value, (tuple, list)):
        if hasattr(value, "_fields"):
            return False
        return not any(isinstance(part, Tensor) for part in value) and not holds_tensor(value)
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence)


def is_field(value: Any, rows: int) -> bool:
    """Tell whether a sequence has one entry for each of so many rows.

    Returns:
        False for a sequence that all samples share.

    Raises:
        ProbeError: If it has not, and is of a type that cannot be marked as shared; or if the sequences inside have as
            many entries, so that it cannot be told which of them are the samples.
    """
    if isinstance(value, (*_SHARED, *_FIELD)):
        return isinstance(value, _FIELD)
    if len(value) == rows:
        if rows > 1 and _is_doubtful(value, rows):
            raise ProbeError(
                f"expected sequences whose length tells whether they have one entry per sample, got {rows} entries "
                f"that hold sequences of {rows} entries themselves, where either may be the {rows} samples; make it an "
                "array, a tensor or a dict of lists in the collate_fn"
            )
        return True
    if type(value) not in (list, tuple) and not isinstance(value, np.ndarray):
        raise ProbeError(
            f"expected one entry per sample in a {type(value).__name__}, got {len(value)} for {rows} samples; make it "
            "a list or tuple if all samples share it"
        )
    return False


def _is_doubtful(value: Any, rows: int) -> bool:
    """Whether sequences below a list or tuple have as many entries as it has itself."""
    # Sequences of numbers do not count: a collate function that made one per position would have made a tensor.
    if not isinstance(value, (list, tuple)) or all(isinstance(part, ATOMS) for part in value):
        return False
    sequences = [is_sequence(part) for part in value]
    if all(sequences) and not all(len(part) == rows for part in value):  # of different lengths: one for each sample
        return False
    below = [part for entry in value for part in walk(entry) if is_sequence(part) and len(part) == rows]
    mixed = len({type(part) for part in value}) > 1  # entries of one field have one type: ([3, 4], "train") is nesting
    return any(mixed or not all(isinstance(number, Number) for number in part) for part in below)


def as_shared(value: Any) -> Any:
    """Mark a list, tuple or array as shared by all samples."""
    if isinstance(value, _SHARED):
        return value
    if isinstance(value, np.ndarray):
        return value.view(SharedArray)
    return SharedList(value) if isinstance(value, list) else SharedTuple(value)


def as_field(value: Any) -> Any:
    """Mark a list or tuple as a field with one entry per sample."""
    if type(value) is list:
        return FieldList(value)
    return FieldTuple(value) if type(value) is tuple else value


def select(
    value: Any, rows: Callable[[], int], on_tensor: Callable[[Tensor], Any], on_field: Callable[[Any], Any]
) -> Any:
    """Replace every tensor and every field of a batch, and mark the sequences that all samples share.

    Args:
        value: The batch, or a part of it.
        rows: Returns the number of the batch's samples; called only if there are sequences.
        on_tensor: Applied to every tensor.
        on_field: Applied to every sequence with one entry per sample.

    Returns:
        The same nesting.

    >>> select({"x": np.zeros(2), "names": ["a", "b"], "sizes": [1, 2, 3]}, lambda: 2, id, lambda field: field[:1])
    {'x': array([0.]), 'names': ['a'], 'sizes': [1, 2, 3]}
    """
    if isinstance(value, Tensor):
        return on_tensor(value)
    if type(value) is tuple and all(isinstance(part, Tensor) for part in value) and value:  # the most frequent batch
        return tuple(map(on_tensor, value))
    if isinstance(value, ATOMS):
        return value
    if is_sequence(value):
        if is_field(value, rows()):
            return on_field(value)
        return as_shared(_inside(value, rows, on_tensor, on_field))
    parts = parts_of(value)
    if parts is None:
        _insist_shared(value, rows)
        return value
    new = [select(part, rows, on_tensor, on_field) for part in parts.values()]
    if type(value) is not dict and all(a is b for a, b in zip(new, parts.values(), strict=True)):
        return value
    return rebuilt(value, new)


def _inside(
    value: Any, rows: Callable[[], int], on_tensor: Callable[[Tensor], Any], on_field: Callable[[Any], Any]
) -> Any:
    """The same below a shared list or tuple, which may hold a field per entry: names of the first object, and so on."""
    if isinstance(value, np.ndarray):
        return value
    new = [select(part, rows, on_tensor, on_field) for part in value]
    return value if all(a is b for a, b in zip(new, value, strict=True)) else type(value)(new)


def _insist_shared(value: Any, rows: Callable[[], int]) -> None:
    """Refuse an object that has an entry per sample and cannot be cut."""
    if isinstance(value, (Set, np.generic)) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return
    counts = {_length(value), *map(_length, _held_inside(value))}
    if rows() in counts:
        raise ProbeError(
            f"expected fields that can be cut by sample (tensors, arrays, lists, tuples, in dicts or data classes), "
            f"got a {type(value).__name__} with {rows()} entries, as many as samples; convert it in the collate_fn, "
            "or leave it out of the batch"
        )


def _held_inside(value: Any) -> Iterator[Any]:
    """Yield what may have an entry per sample in an object of another type: in its attributes, down to some depth."""
    seen: set[int] = set()
    level = [value]
    for _ in range(_DEPTH):
        below = []
        for each in level:
            for part in _attributes(each):
                if id(part) in seen or isinstance(part, ATOMS):
                    continue
                seen.add(id(part))
                if isinstance(part, (Tensor, np.ndarray, list, tuple)):
                    yield part
                below.append(part)
        level = below[:_WIDTH]


def _attributes(value: Any) -> list[Any]:
    """Attributes of an object, in its ``__dict__`` and its slots, or the parts of a container."""
    if isinstance(value, (Tensor, np.ndarray)) or callable(value):
        return []
    if (parts := parts_of(value)) is not None:
        return list(parts.values())
    slots = [name for kind in type(value).__mro__ for name in _named(getattr(kind, "__slots__", ()))]
    own = getattr(value, "__dict__", None)
    held = list(own.values()) if isinstance(own, dict) else []
    return [*held, *(getattr(value, name) for name in slots if hasattr(value, name))]


def _named(slots: Any) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except (TypeError, AttributeError, NotImplementedError):
        return None


def type_name(value: Any) -> str:
    """Name of a value's type without our mark."""
    kind = type(value)
    return (kind.__mro__[1] if kind in (*_SHARED, *_FIELD) else kind).__name__


def cut(field: Any, start: int, stop: int) -> Any:
    """Take entries ``start:stop`` of a field."""
    if isinstance(field, (np.ndarray, range)):
        return field[start:stop]
    part = field[start:stop] if isinstance(field, (list, tuple)) else list(field)[start:stop]  # a deque has no slices
    return as_field(type(field)(part))


def gather(field: Any, index: list[int]) -> Any:
    """Take entries of a field in any order."""
    if isinstance(field, np.ndarray):
        return field[index]
    taken = [field[i] for i in index]
    return as_field(taken if isinstance(field, range) else type(field)(taken))


def concatenated(parts: list[Any]) -> Any:
    """Join the entries of fields of one type."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    entries = [entry for part in parts for entry in part]
    return as_field(entries if isinstance(parts[0], range) else type(parts[0])(entries))


def equal(one: Any, other: Any) -> bool:
    """Tell whether two values that all samples share are the same; False where that cannot be told."""
    if one is other:
        return True
    try:
        if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
            return bool(np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind == "f"))
        if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
            return len(one) == len(other) and all(map(equal, one, other))
        if isinstance(one, dict) and isinstance(other, dict):
            return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
        return bool(one == other) or bool(one != one and other != other)
    except Exception:  # whatever the objects' own comparison raises
        return False


class FieldWatch:
    """Remembers which sequences of a loader's batches are shared, and refuses what cannot be told.

    A shared sequence must be the same in every batch. One that varies belongs to samples, and cannot be cut.

    >>> import torch
    >>> watch = FieldWatch()
    >>> _ = watch.see({"x": torch.zeros(8), "classes": ["cat", "dog"]}, 8)
    >>> type(watch.see({"x": torch.zeros(2), "classes": ["cat", "dog"]}, 2)["classes"]).__name__
    'SharedList'
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, ...], tuple[bool, Any]] = {}

    def see(self, batch: Batch, rows: int) -> Batch:
        """Check a batch against those before.

        Args:
            batch: A batch.
            rows: Number of its samples.

        Returns:
            The batch; sequences that have its length by chance are marked as shared.

        Raises:
            ProbeError: If it cannot be told whether a sequence has one entry per sample.
        """
        return self._part(batch, (), rows)

    def _part(self, value: Any, path: tuple[Any, ...], rows: int) -> Any:
        if isinstance(value, (Tensor, *ATOMS)):
            return value
        if is_sequence(value):
            shared = self._is_shared(value, path, rows)
            if not shared:
                return as_field(value) if _is_doubtful(value, rows) else value
            if isinstance(value, np.ndarray):
                return as_shared(value)
        parts = parts_of(value)
        if parts is None:
            _insist_shared(value, lambda: rows)
            return value
        new = [self._part(part, (*path, str(label)), rows) for label, part in parts.items()]
        if all(a is b for a, b in zip(new, parts.values(), strict=True)):
            return as_shared(value) if is_sequence(value) else value
        return as_shared(type(value)(new)) if is_sequence(value) else rebuilt(value, new)

    def _is_shared(self, value: Any, path: tuple[Any, ...], rows: int) -> bool:
        """Whether a sequence is shared, by what earlier batches show."""
        if path not in self._seen:
            self._seen[path] = is_field(value, rows), value
        before, held = self._seen[path]
        if before and len(value) != rows:
            raise _unclear(path, f"{len(value)} entries for {rows} samples, after {len(held)} for as many samples")
        if before:
            return False
        if not equal(_entries(value), _entries(held)):
            raise _unclear(path, f"one that changes from batch to batch, of {len(value)} entries for {rows} samples")
        return True


def _entries(value: Any) -> Any:
    """What a shared sequence itself holds; fields below it vary."""
    if isinstance(value, np.ndarray):
        return value
    return [
        type(part) if isinstance(part, (list, tuple, np.ndarray, Mapping)) or is_record(part) else part
        for part in value
    ]


def _unclear(path: tuple[Any, ...], got: str) -> ProbeError:
    place = f"the field {'.'.join(path)!r}" if path else "the batch"
    return ProbeError(
        f"expected {place} to have one entry per sample or to be the same in every batch, got {got}; make it an array "
        "or tensor with one row per sample in the collate_fn, or move what all samples share into the loss_fn"
    )
