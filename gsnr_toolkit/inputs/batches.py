"""Cutting, counting and moving batches of any nesting of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.types import Batch, Loader


def map_tensors(batch: Batch, function: Callable[[Tensor], Any]) -> Batch:
    """Apply ``function`` to every tensor of a batch and keep the nesting; mappings become dicts.

    Args:
        batch: A tensor, or tuples, named tuples, lists and mappings of them. Other leaves pass unchanged.
        function: What to do with each tensor.

    Returns:
        The same nesting with every tensor replaced.

    Raises:
        ProbeError: If there is a packed sequence, whose rows are not samples.

    >>> map_tensors({"x": torch.zeros(2, 3), "kind": "train"}, lambda t: tuple(t.shape))
    {'x': (2, 3), 'kind': 'train'}
    """
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(value, function) for key, value in batch.items()}
    if isinstance(batch, PackedSequence):
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
    """List the tensors of a batch in a fixed order.

    Returns:
        Every tensor found, depth first.
    """
    found: list[Tensor] = []
    map_tensors(batch, found.append)
    return found


def batch_length(batch: Batch) -> int:
    """Count the samples (rows) of a batch.

    Returns:
        The common leading dimension of its tensors.

    Raises:
        ProbeError: If there is no tensor, a scalar or nested tensor, or leading dimensions disagree.
    """
    if any(tensor.is_nested for tensor in tensors_of(batch)):
        raise ProbeError(
            "expected tensors whose rows can be cut apart, got a nested (jagged) one; pad it, and pass the lengths or "
            "a mask as a tensor besides"
        )
    shapes = [tuple(tensor.shape) for tensor in tensors_of(batch)]
    if not shapes:
        raise ProbeError(
            f"expected a batch that holds tensors, got {type(batch).__name__} without any; "
            "let the loader's collate_fn return tensors, such as (inputs, labels)"
        )
    if any(len(shape) == 0 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ProbeError(
            f"expected every tensor of a batch to have one row per sample, got shapes {shapes}; "
            "move tensors that all samples share into the model or the loss_fn"
        )
    return shapes[0][0]


def take_rows(batch: Batch, start: int, stop: int) -> Batch:
    """Take rows ``start:stop`` of every tensor in a batch (views, no copies).

    Returns:
        A batch of the same nesting with ``stop - start`` rows.
    """
    return map_tensors(batch, lambda tensor: tensor[start:stop])


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """Move every tensor of a batch to a device.

    Returns:
        The batch there; tensors already there are not copied.
    """
    return map_tensors(batch, lambda tensor: tensor.to(device))


def join_batches(batches: list[Batch]) -> Batch:
    """Concatenate batches of equal nesting along the sample axis.

    Returns:
        One batch that holds all rows.

    Raises:
        ProbeError: If the tensors' shapes differ in more than the first dimension.
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
    """Whether two batches differ in their rows alone, so that a model sees no difference between both and one of all.

    Args:
        one: A batch.
        other: Another.

    Returns:
        True where both hold dense tensors and nothing else, in the same nesting, of the same types and row shapes.

    >>> can_join((torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(5, 3), torch.zeros(5)))
    True
    >>> can_join(torch.zeros(2, 3), torch.zeros(2, 4))  # padded to different lengths
    False
    """
    if not (_all_tensors(one) and _all_tensors(other)):
        return False
    return bool(map_tensors(one, _kind) == map_tensors(other, _kind))


def _kind(tensor: Tensor) -> _Kind:
    return _Kind(tensor.shape[1:], tensor.dtype, tensor.device, tensor.layout)


class _Kind(NamedTuple):
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    layout: torch.layout


def _all_tensors(batch: Batch) -> bool:
    """Whether there is nothing but dense tensors: a list of names, say, may or may not have an entry for each row."""
    if isinstance(batch, Tensor):
        return batch.layout == torch.strided
    if isinstance(batch, Mapping):
        return all(_all_tensors(value) for value in batch.values())
    return isinstance(batch, (tuple, list)) and all(_all_tensors(value) for value in batch)


def rebatch(loader: Loader, size: int) -> Iterator[Batch]:
    """Regroup a loader's rows into batches of exactly ``size`` rows (the last may be shorter).

    Batches that already have the size pass untouched, so that padded or ragged batches of the
    loader's own size never need to be joined.

    Yields:
        Batches of ``size`` rows.
    """
    pending: list[Batch] = []
    count = 0
    for batch in loader:
        length = batch_length(batch)
        start = 0
        while count + (length - start) >= size:
            stop = start + size - count
            pending.append(take_rows(batch, start, stop) if (start, stop) != (0, length) else batch)
            yield pending[0] if len(pending) == 1 else join_batches(pending)
            pending, count, start = [], 0, stop
        if start < length:
            pending.append(take_rows(batch, start, length))
            count += length - start
    if pending:
        yield pending[0] if len(pending) == 1 else join_batches(pending)


def find_device(name: str | int | torch.device) -> torch.device:
    """Resolve a device, and make sure that this machine has it.

    Args:
        name: Such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Returns:
        The device, with its index.

    Raises:
        ProbeError: If there is no such device.

    >>> find_device("cpu")
    device(type='cpu')
    """
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProbeError(
            f"expected a device of this machine, got {name!r} ({reason}); use device='cpu' (--device cpu)"
        ) from error


def draw_batches(loader: Loader, max_samples: int | None) -> Iterator[Batch]:
    """Take batches from a loader, at most ``max_samples`` rows in all.

    Yields:
        Batches as the loader gives them; the last one cut to fit.

    Raises:
        ProbeError: If there is no batch at all.
    """
    taken = 0
    for batch in loader:
        length = batch_length(batch)
        if max_samples is not None and taken + length > max_samples:
            length = max_samples - taken
            batch = take_rows(batch, 0, length)
        if length:
            yield batch
        taken += length
        if max_samples is not None and taken >= max_samples:
            return
    if taken == 0:
        used_up = iter(loader) is loader
        remedy = (
            "it is an iterator that may have been used up: pass the DataLoader itself, or a list of batches"
            if used_up
            else "check the data set's length, its split and drop_last"
        )
        raise ProbeError(f"expected a loader that yields at least one batch, got none; {remedy}")
