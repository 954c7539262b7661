"""Walk over a loader's batches: at most so many rows, or regrouped into batches of another size."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping

from torch import Tensor

from gsnr_toolkit.errors import ProbeError, ProbeWarning
from gsnr_toolkit.inputs.batches import batch_length, join_batches, map_tensors, take_rows
from gsnr_toolkit.inputs.loader_state import check_shareable
from gsnr_toolkit.types import Batch, Loader

_MANY = 10_000
"""Samples after which a loader without a length is suspected to be endless."""
_MOST = 100_000
"""Samples of a loader without a length that are kept at most."""


def _warn_if_endless(loader: Loader, before: int, taken: int) -> None:
    if before < _MANY <= taken and not hasattr(loader, "__len__"):
        warnings.warn(
            f"{taken} samples were drawn from a loader without a length, which may never end; pass max_samples",
            ProbeWarning,
            stacklevel=3,
        )


def check_loader(loader: Loader) -> None:
    """Check that a loader can yield batches.

    Raises:
        ProbeError: If it cannot be iterated over, or is a single batch.

    >>> check_loader(5)
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected a loader that yields batches, got int; pass a DataLoader or a list of ...
    """
    single = isinstance(loader, (str, bytes, Mapping, Tensor))
    if single or not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        hint = "put this batch into a list, [batch]" if single else "pass a DataLoader or a list of batches"
        raise ProbeError(f"expected a loader that yields batches, got {type(loader).__name__}; {hint}")


def draw_batches(loader: Loader, max_samples: int | None) -> Iterator[Batch]:
    """Take batches from a loader, at most ``max_samples`` rows in all.

    Yields:
        The loader's batches, the last one cut to fit.

    Raises:
        ProbeError: If the loader yields no batch.
    """
    taken = 0
    check_shareable(loader)
    for batch in loader:
        length = batch_length(batch)
        if max_samples is not None and taken + length > max_samples:
            length = max_samples - taken
            # a copy, because rows cut as views would keep all of the batch in memory
            batch = map_tensors(take_rows(batch, 0, length), lambda tensor: tensor.clone())
        if length:
            yield batch
        taken += length
        if max_samples is None:
            _warn_if_endless(loader, taken - length, taken)
        if max_samples is not None and taken >= max_samples:
            return
    if taken == 0:
        used_up = hasattr(loader, "__next__")
        remedy = (
            "it is an iterator that may be exhausted: pass the DataLoader itself, or a list of batches"
            if used_up
            else "check the data set's length, its split and drop_last"
        )
        raise ProbeError(f"expected a loader that yields at least one batch, got none; {remedy}")


def keep_batches(batches: Iterable[Batch], loader: Loader, max_samples: int | None) -> list[Batch]:
    """Keep drawn batches in memory, unless there may be no end to them.

    Args:
        batches: What was drawn, at most ``max_samples`` rows.
        loader: Where it comes from.
        max_samples: Most samples to draw, or None.

    Returns:
        The batches.

    Raises:
        ProbeError: If a loader without a length has given very many samples, and no number was asked for.
    """
    kept: list[Batch] = []
    count = 0
    for batch in batches:
        kept.append(batch)
        count += batch_length(batch)
        if count >= _MOST and max_samples is None and not hasattr(loader, "__len__"):
            raise ProbeError(
                f"expected a loader that ends, because its samples are kept in memory, got {count} samples from "
                f"{type(loader).__name__}, which has no length; pass max_samples"
            )
    return kept


def rebatch(loader: Loader, size: int) -> Iterator[Batch]:
    """Regroup a loader's rows into batches of exactly ``size`` rows (the last may be shorter).

    Batches of that size pass through untouched. Batches padded to different lengths, which cannot be joined,
    therefore still work at the loader's own batch size.

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


def endless_batches(loader: Loader) -> Generator[Batch, None, None]:
    """Yield the batches of a training loader, again from the start whenever it ends.

    Args:
        loader: The loader.

    Yields:
        Batches without end.

    Raises:
        ProbeError: If it has no batch, or cannot be read again.
    """
    while True:
        empty = True
        check_shareable(loader)
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ProbeError(
                "expected a training loader that can be read again, got no batch; pass a DataLoader or a list, not an "
                "exhausted iterator"
            )
