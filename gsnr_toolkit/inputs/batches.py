"""Count, cut, join and move batches: tensors and fields with one entry per sample, in any nesting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.fields import (
    as_shared,
    concatenated,
    cut,
    equal,
    gather,
    is_field,
    is_sequence,
    select,
    type_name,
)
from gsnr_toolkit.inputs.nesting import holds_tensor, map_parts, parts_of, rebuilt, walk
from gsnr_toolkit.types import Batch


def map_tensors(batch: Batch, function: Callable[[Tensor], Any]) -> Batch:
    """Apply a function to every tensor of a batch and keep the nesting and its types.

    Args:
        batch: A tensor, or tuples, lists, mappings and data classes of them. Other leaves pass unchanged.
        function: Applied to each tensor.

    Returns:
        The same nesting with every tensor replaced.

    Raises:
        ProbeError: If the batch holds a packed sequence, or a container that cannot be made again.

    >>> map_tensors({"x": torch.zeros(2, 3), "kind": "train"}, lambda t: tuple(t.shape))
    {'x': (2, 3), 'kind': 'train'}
    """
    if isinstance(batch, Tensor):
        return function(batch)
    return map_parts(batch, lambda part: map_tensors(part, function))


def tensors_of(batch: Batch) -> list[Tensor]:
    """List the tensors of a batch, depth first."""
    return [part for part in walk(batch) if isinstance(part, Tensor)]


def batch_length(batch: Batch) -> int:
    """Count the samples (rows) of a batch.

    Returns:
        The common leading dimension of its tensors.

    Raises:
        ProbeError: If the batch holds no tensor, a scalar or a nested tensor, or if leading dimensions differ.
    """
    tensors = tensors_of(batch)
    if any(tensor.is_nested for tensor in tensors):
        raise ProbeError(
            "expected tensors that can be sliced by row, got a nested (jagged) one; pad it, and add the lengths or a "
            "mask to the batch as a tensor"
        )
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if not shapes:
        raise ProbeError(
            f"expected a batch that holds tensors, got {type(batch).__name__} with none; "
            "let the loader's collate_fn return tensors, such as (inputs, labels)"
        )
    if any(len(shape) == 0 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ProbeError(
            f"expected every tensor of a batch to have one row per sample, got shapes {shapes}; {_remedy(batch)}"
        )
    return shapes[0][0]


def _remedy(batch: Batch) -> str:
    """What to do about tensors of different lengths."""
    pad = (
        "pad samples of different sizes to one size in the collate_fn, stack them, and add their lengths or a mask as "
        "a tensor (a list of tensors, or samples joined end to end, cannot be cut by sample)"
    )
    share = "move tensors that all samples share into the model or the loss_fn"
    if any(isinstance(part, list) and holds_tensor(part) and part is not batch for part in walk(batch)):
        return pad
    if any(tensor.ndim == 0 for tensor in tensors_of(batch)):
        return share
    return f"{share}; {pad}"


def take_rows(batch: Batch, start: int, stop: int) -> Batch:
    """Take rows ``start:stop`` of a batch: of every tensor, as views, and of every field with one entry per sample.

    Lists, tuples and arrays of the batch's length are such fields; those of another length are shared by all samples.

    Args:
        batch: A batch.
        start: First row.
        stop: Row after the last.

    Returns:
        A batch of the same type.

    >>> take_rows({"x": torch.arange(3), "name": ["a", "b", "c"], "split": "train"}, 1, 3)
    {'x': tensor([1, 2]), 'name': ['b', 'c'], 'split': 'train'}
    """
    return select(
        batch,
        lambda: batch_length(batch),
        lambda tensor: tensor[start:stop],
        lambda field: cut(field, start, stop),
    )


def gather_rows(batch: Batch, index: list[int]) -> Batch:
    """Take rows of a batch in any order, also several times."""
    where = torch.tensor(index)
    return select(
        batch,
        lambda: batch_length(batch),
        lambda tensor: tensor[where.to(tensor.device)],
        lambda field: gather(field, index),
    )


def replace_rows(batch: Batch, on_tensor: Callable[[Tensor], Any], on_field: Callable[[Any], Any]) -> Batch:
    """Replace every tensor, and every field with one entry per sample that is no tensor."""
    return select(batch, lambda: batch_length(batch), on_tensor, on_field)


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """Move every tensor of a batch to a device; tensors that are already there are not copied."""
    return map_tensors(batch, lambda tensor: tensor.to(device))


def join_batches(batches: list[Batch]) -> Batch:
    """Concatenate batches of the same nesting along the sample axis.

    Returns:
        One batch with all rows. What all samples share is taken from the first.

    Raises:
        ProbeError: If shapes differ in more than the first dimension, or what samples share differs.
    """
    try:
        return _joined(batches, [batch_length(batch) for batch in batches])
    except (RuntimeError, ValueError, _Differs) as error:
        shapes = [[tuple(tensor.shape) for tensor in tensors_of(batch)] for batch in batches]
        reason = f" ({error})" if isinstance(error, _Differs) else ""
        raise ProbeError(
            f"expected batches whose tensors differ in the number of rows only, got {shapes[:4]}{reason}; "
            "pad to one length in the collate_fn, give what varies one entry per sample, or pass a batch_size that "
            "divides the loader's"
        ) from error


class _Differs(Exception):
    """What differs between batches that are to be joined."""


def _joined(values: list[Any], rows: list[int]) -> Any:
    first = values[0]
    if any(type(value) is not type(first) and not is_sequence(value) for value in values):
        raise _Differs(f"{' and '.join(sorted({type_name(value) for value in values}))} in one place")
    if isinstance(first, Tensor):
        return torch.cat(values)
    if is_sequence(first):
        return _joined_sequences(values, rows)
    opened = [parts_of(value) for value in values]
    if opened[0] is None:
        if not all(equal(first, value) for value in values[1:]):
            raise _Differs(f"{str(first)[:40]!r} is {str(values[-1])[:40]!r} elsewhere")
        return first
    parts = [part for part in opened if part is not None]
    if any(list(map(str, part)) != list(map(str, parts[0])) for part in parts):
        raise _Differs("the keys differ")
    columns = zip(*(part.values() for part in parts), strict=True)
    return rebuilt(first, [_joined(list(column), rows) for column in columns])


def _joined_sequences(values: list[Any], rows: list[int]) -> Any:
    fields = {is_sequence(value) and is_field(value, count) for value, count in zip(values, rows, strict=True)}
    if fields == {True}:
        return concatenated(values)
    first = values[0]
    if len(fields) == 1 and isinstance(first, (list, tuple)) and len({len(value) for value in values}) == 1:
        return as_shared(type(first)(_joined(list(column), rows) for column in zip(*values, strict=True)))
    if len(fields) == 1 and all(equal(first, value) for value in values[1:]):
        return as_shared(first)
    raise _Differs(f"a {type_name(first)} has {[len(value) for value in values[:4]]} entries")


def can_join(one: Batch, other: Batch) -> bool:
    """Tell whether two batches can be joined without any change for the model: they differ in their rows only.

    Args:
        one: A batch.
        other: Another batch.

    Returns:
        True if both have the same nesting, the same row shapes, dtypes, devices and layouts of dense tensors, and the
        same values wherever a value does not belong to a sample.

    >>> can_join((torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(5, 3), torch.zeros(5)))
    True
    >>> can_join(torch.zeros(2, 3), torch.zeros(2, 4))  # padded to different lengths
    False
    """
    return _alike(one, other, [batch_length(one), batch_length(other)])


def _alike(one: Any, other: Any, rows: list[int]) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.layout == torch.strided and _kind(one) == _kind(other)
    if type(one) is type(other) is tuple and all(map(_is_tensor, (*one, *other))):
        return len(one) == len(other) and all(_alike(a, b, rows) for a, b in zip(one, other, strict=True))
    if is_sequence(one) and is_sequence(other):
        fields = [is_field(value, count) for value, count in zip((one, other), rows, strict=True)]
        if any(fields):
            return all(fields) and isinstance(one, list) == isinstance(other, list) and _same_entries(one, other)
        if not isinstance(one, (list, tuple)):
            return equal(one, other)
        return len(one) == len(other) and all(_alike(a, b, rows) for a, b in zip(one, other, strict=True))
    if type(one) is not type(other):
        return False
    parts = parts_of(one), parts_of(other)
    if parts[0] is None or parts[1] is None:
        return equal(one, other)
    if list(map(str, parts[0])) != list(map(str, parts[1])):
        return False
    return all(_alike(a, b, rows) for a, b in zip(parts[0].values(), parts[1].values(), strict=True))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _same_entries(one: Any, other: Any) -> bool:
    """Whether the entries of two fields may stand in one: arrays of one shape and type of rows; anything in a list."""
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) == isinstance(other, np.ndarray)
    return one.shape[1:] == other.shape[1:] and one.dtype == other.dtype


class _Kind(NamedTuple):
    """All that must agree between two tensors whose rows are to be joined."""

    row_shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    layout: torch.layout


def _kind(tensor: Tensor) -> _Kind:
    return _Kind(tensor.shape[1:], tensor.dtype, tensor.device, tensor.layout)
