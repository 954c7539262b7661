"""Balanced loaders that do not touch the global random states: a fixed draw to probe on, and epochs to train on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from gsnr_toolkit.data.base import FAKE, REAL, ForgeryDataset, probe_indices
from gsnr_toolkit.data.checks import DataError
from gsnr_toolkit.support.arguments import COUNT, SEED, WHOLE, Kind, check_arguments

__all__ = ["BalancedBatches", "endless", "probe_loader", "train_loader"]


_DATASET = Kind(
    "a data set with records", lambda value: hasattr(value, "records"), "open one with gsnr_toolkit.open_dataset"
)


def probe_loader(
    dataset: ForgeryDataset, n: int, batch_size: int = 32, seed: int = 0, num_workers: int = 0
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Make the loader that a probe measures on: the same items in the same order in every pass.

    Args:
        dataset: The data set to draw from.
        n: Number of items; :func:`gsnr_toolkit.data.base.probe_indices` says which are drawn, and when fewer are.
        batch_size: Items per batch; every batch of even size is exactly balanced.
        seed: Equal seeds draw the same items.
        num_workers: Number of processes that read images; 0 reads in the main process.

    Returns:
        A loader of ``(images (B, 3, S, S) float32, labels (B,) int64)``. ``loader.dataset.indices`` holds the row
        numbers of the items, which can be passed to :func:`train_loader` as ``exclude``.

    >>> from gsnr_toolkit.data.own import in_memory
    >>> data = in_memory(np.zeros((8, 4, 4, 3), np.uint8), labels=[0, 1] * 4, image_size=4)
    >>> [labels.sum().item() for _, labels in probe_loader(data, n=8, batch_size=4)]
    [2, 2]
    """
    check_arguments(n=(n, COUNT), batch_size=(batch_size, COUNT), seed=(seed, SEED), num_workers=(num_workers, WHOLE))
    check_arguments(dataset=(dataset, _DATASET))
    subset: Dataset[Any] = Subset(dataset, probe_indices(dataset.records, n, seed))
    # Without a generator of its own, a DataLoader draws a seed from the global random state in every pass.
    own = torch.Generator().manual_seed(seed)
    return DataLoader(subset, batch_size=batch_size, num_workers=num_workers, generator=own)


class BalancedBatches(Sampler[list[int]]):
    """Batches with equally many real and fake items (up to one), reshuffled in every epoch.

    An epoch holds each item of the smaller class once, and as many items of the larger class, drawn in each epoch
    without replacement. That gives ``2 * min(real, fake) // batch_size`` full batches, or a single smaller batch
    if there are too few items for one. Epoch ``e`` depends on ``(seed, e)`` only. ``e`` counts the passes over this
    object and can be set, so that a run resumes with the epoch at which it stopped.

    Attributes:
        epoch: The number of the next pass.
    """

    def __init__(
        self, labels: np.ndarray[Any, Any], batch_size: int, seed: int = 0, exclude: Collection[int] = ()
    ) -> None:
        if batch_size < 2:
            raise DataError(
                f"expected batch_size >= 2, since a balanced batch has both classes, got {batch_size}; raise it"
            )
        kept = np.setdiff1d(np.arange(len(labels)), np.asarray(sorted(exclude), dtype=np.int64))
        self._classes = [kept[labels[kept] == label] for label in (REAL, FAKE)]
        counts = [len(members) for members in self._classes]
        if min(counts) == 0:
            raise DataError(
                f"expected training items of both classes, but {counts[REAL]} real and {counts[FAKE]} fake items are "
                f"left after excluding {len(labels) - len(kept)} of {len(labels)}; probe fewer samples, or open a "
                "larger data set"
            )
        self._batch_size = min(batch_size, 2 * min(counts))
        self._length = 2 * min(counts) // self._batch_size
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self._seed, self.epoch])
        self.epoch += 1
        half = min(len(members) for members in self._classes)
        real, fake = (rng.permutation(members)[:half] for members in self._classes)
        pairs = np.stack([real, fake], axis=1).reshape(-1)
        for start in range(0, self._length * self._batch_size, self._batch_size):
            yield rng.permutation(pairs[start : start + self._batch_size]).tolist()


def train_loader(
    dataset: ForgeryDataset,
    batch_size: int = 32,
    seed: int = 0,
    exclude: Collection[int] = (),
    num_workers: int = 0,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Make a class-balanced, shuffled loader to train on; one pass is one epoch.

    :class:`BalancedBatches` defines an epoch; :func:`endless` chains epochs. Two loaders with the same arguments
    yield the same batches in every pass.

    Args:
        dataset: The data set to draw from.
        batch_size: Items per batch, at least 2.
        seed: Seed of the order and of the draw from the larger class.
        exclude: Row numbers to leave out, such as those of a probe. Other items of the same sources are kept:
            exclude ``records.index[records.source.isin(...)]`` to hold out whole videos or identities.
        num_workers: Number of processes that read images; 0 reads in the main process.

    Returns:
        A loader of ``(images (B, 3, S, S) float32, labels (B,) int64)``.

    >>> from gsnr_toolkit.data.own import in_memory
    >>> data = in_memory(np.zeros((6, 4, 4, 3), np.uint8), labels=[0, 0, 0, 1, 1, 1], image_size=4)
    >>> [labels.sum().item() for _, labels in train_loader(data, batch_size=2, exclude=[0])]
    [1, 1]
    """
    batches = BalancedBatches(dataset.labels, batch_size, seed, exclude)
    own = torch.Generator().manual_seed(seed)
    items: Dataset[Any] = dataset  # its labels are ints; they become a tensor when a batch is collated
    return DataLoader(items, batch_sampler=batches, num_workers=num_workers, generator=own)


def endless(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Repeat a loader for ever, epoch after epoch.

    Args:
        loader: A loader with at least one batch.

    Yields:
        The loader's batches.

    Raises:
        DataError: If a pass yields no batch, since the caller would otherwise wait for ever.
    """
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise DataError(
                "expected a loader with at least one batch, got none; pass a data set that is not empty, and the "
                "DataLoader itself rather than an iterator, which is exhausted after one pass"
            )
