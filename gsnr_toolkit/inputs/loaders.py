"""Walk over a loader's batches: at most so many rows, or regrouped into batches of another size."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

from torch.utils.data import DataLoader

from gsnr_toolkit.errors import ProbeError, ProbeWarning
from gsnr_toolkit.inputs.batches import batch_length, join_batches, take_rows
from gsnr_toolkit.types import Batch, Loader

_MANY = 10_000
"""Samples after which a loader without a length is suspected to be endless."""


def private_loader(loader: Loader) -> Loader:
    """Return a loader of the same batches whose ``iter()`` leaves a loop over the caller's loader alone.

    With persistent workers, ``iter()`` resets the one iterator that a running loop reads from. A shallow copy with
    workers of its own yields the same batches.
    """
    if not (isinstance(loader, DataLoader) and loader.persistent_workers):
        return loader
    twin = copy.copy(loader)
    vars(twin).update(persistent_workers=False, _iterator=None)  # DataLoader refuses assignment after construction
    return twin


def _warn_if_endless(loader: Loader, before: int, taken: int) -> None:
    if before < _MANY <= taken and not hasattr(loader, "__len__"):
        warnings.warn(
            f"{taken} samples were drawn from a loader without a length, which may never end; pass max_samples",
            ProbeWarning,
            stacklevel=3,
        )


def draw_batches(loader: Loader, max_samples: int | None) -> Iterator[Batch]:
    """Take batches from a loader, at most ``max_samples`` rows in all.

    Yields:
        The loader's batches, the last one cut to fit.

    Raises:
        ProbeError: If the loader yields no batch.
    """
    taken = 0
    for batch in private_loader(loader):
        length = batch_length(batch)
        if max_samples is not None and taken + length > max_samples:
            length = max_samples - taken
            batch = take_rows(batch, 0, length)
        if length:
            yield batch
        taken += length
        if max_samples is None:
            _warn_if_endless(loader, taken - length, taken)
        if max_samples is not None and taken >= max_samples:
            return
    if taken == 0:
        used_up = iter(loader) is loader
        remedy = (
            "it is an iterator that may be exhausted: pass the DataLoader itself, or a list of batches"
            if used_up
            else "check the data set's length, its split and drop_last"
        )
        raise ProbeError(f"expected a loader that yields at least one batch, got none; {remedy}")


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
