"""Count, cut, join and move batches: tensors in any nesting of tuples, lists and mappings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.types import Batch


def map_tensors(batch: Batch, function: Callable[[Tensor], Any]) -> Batch:
    """Apply a function to every tensor of a batch and keep the nesting; mappings become dicts.

    Args:
        batch: A tensor, or tuples, named tuples, lists and mappings of them. Other leaves pass unchanged.
        function: Applied to each tensor.

    Returns:
        The same nesting with every tensor replaced.

    Raises:
        ProbeError: If the batch holds a packed sequence, whose rows are time steps rather than samples.

    >>> map_tensors({"x": torch.zeros(2, 3), "kind": "train"}, lambda t: tuple(t.shape))
    {'x': (2, 3), 'kind': 'train'}
    """
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(value, function) for key, value in batch.items()}
    if isinstance(batch, PackedSequence):  # a named tuple, so it must be caught before the case below
        raise ProbeError(
            "expected a batch whose tensors have one row per sample, got a PackedSequence; pass padded sequences and "
            "their lengths, and pack them inside the model"
        )
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(value, function) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(map_tensors(value, function) for value in batch)
    return batch


def tensors_of(batch: Batch) -> list[Tensor]:
    """List the tensors of a batch, depth first."""
    found: list[Tensor] = []
    map_tensors(batch, found.append)
    return found


def batch_length(batch: Batch) -> int:
    """Count the samples (rows) of a batch.

    Returns:
        The common leading dimension of its tensors.

    Raises:
        ProbeError: If the batch holds no tensor, a scalar or a nested tensor, or if leading dimensions differ.
    """
    if any(tensor.is_nested for tensor in tensors_of(batch)):
        raise ProbeError(
            "expected tensors that can be sliced by row, got a nested (jagged) one; pad it, and add the lengths or a "
            "mask to the batch as a tensor"
        )
    shapes = [tuple(tensor.shape) for tensor in tensors_of(batch)]
    if not shapes:
        raise ProbeError(
            f"expected a batch that holds tensors, got {type(batch).__name__} with none; "
            "let the loader's collate_fn return tensors, such as (inputs, labels)"
        )
    if any(len(shape) == 0 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ProbeError(
            f"expected every tensor of a batch to have one row per sample, got shapes {shapes}; "
            "move tensors that all samples share into the model or the loss_fn"
        )
    return shapes[0][0]


def take_rows(batch: Batch, start: int, stop: int) -> Batch:
    """Take rows ``start:stop`` of every tensor in a batch, as views."""
    return map_tensors(batch, lambda tensor: tensor[start:stop])


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """Move every tensor of a batch to a device; tensors that are already there are not copied."""
    return map_tensors(batch, lambda tensor: tensor.to(device))


def join_batches(batches: list[Batch]) -> Batch:
    """Concatenate batches of the same nesting along the sample axis.

    Returns:
        One batch with all rows.

    Raises:
        ProbeError: If shapes differ in more than the first dimension.
    """
    columns = [tensors_of(batch) for batch in batches]
    try:
        joined = iter([torch.cat(column) for column in zip(*columns, strict=True)])
    except (RuntimeError, ValueError) as error:
        shapes = [[tuple(tensor.shape) for tensor in column] for column in columns]
        raise ProbeError(
            f"expected batches whose tensors differ in the number of rows only, got {shapes[:4]}; "
            "pad to one length in the collate_fn, or pass a batch_size that divides the loader's"
        ) from error
    return map_tensors(batches[0], lambda _: next(joined))


def can_join(one: Batch, other: Batch) -> bool:
    """Tell whether two batches can be joined without any change for the model: they differ in their rows only.

    Args:
        one: A batch.
        other: Another batch.

    Returns:
        True if both hold dense tensors only, with the same nesting, row shapes, dtypes, devices and layouts.

    >>> can_join((torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(5, 3), torch.zeros(5)))
    True
    >>> can_join(torch.zeros(2, 3), torch.zeros(2, 4))  # padded to different lengths
    False
    """
    if not (_all_tensors(one) and _all_tensors(other)):
        return False
    return bool(map_tensors(one, _kind) == map_tensors(other, _kind))


class _Kind(NamedTuple):
    """All that must agree between two tensors whose rows are to be joined."""

    row_shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    layout: torch.layout


def _kind(tensor: Tensor) -> _Kind:
    return _Kind(tensor.shape[1:], tensor.dtype, tensor.device, tensor.layout)


def _all_tensors(batch: Batch) -> bool:
    """Tell whether a batch holds dense tensors only."""
    # Any other leaf rules a join out: a list of names, for example, may or may not have one entry per row.
    if isinstance(batch, Tensor):
        return batch.layout == torch.strided
    if isinstance(batch, Mapping):
        return all(_all_tensors(value) for value in batch.values())
    return isinstance(batch, (tuple, list)) and all(_all_tensors(value) for value in batch)
