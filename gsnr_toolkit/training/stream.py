"""Training batches that can be resumed at any step, and deliberate label noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gsnr_toolkit.data.base import FAKE, REAL, ForgeryDataset
from gsnr_toolkit.data.loaders import BalancedBatches
from gsnr_toolkit.errors import ProbeError

__all__ = ["FlippedLabels", "balanced_rows", "training_batches"]


def training_batches(
    dataset: ForgeryDataset,
    batch_size: int,
    *,
    seed: int = 0,
    start: int = 0,
    rows: Sequence[int] | None = None,
    label_noise: float = 0.0,
    num_workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate endlessly over class-balanced batches; batch t is the same wherever the iteration starts.

    Args:
        dataset: The data set.
        batch_size: Items per batch.
        seed: Seed of the order, of the draw from the larger class and of the flipped labels.
        start: Number of the first batch; earlier ones are not loaded.
        rows: Row numbers to train on; all when None.
        label_noise: Share of labels of each class to flip, the same ones in every pass.
        num_workers: Processes that load images; 0 loads in this process.

    Returns:
        An iterator of ``(images (B, 3, S, S) float32, labels (B,) int64)``.

    >>> from gsnr_toolkit.data.own import in_memory
    >>> data = in_memory(np.zeros((8, 4, 4, 3), np.uint8), labels=[0, 1] * 4, image_size=4)
    >>> later = training_batches(data, 4, start=5)
    >>> next(later)[1].sum().item()
    2
    """
    items: Dataset[Any] = FlippedLabels(dataset, label_noise, seed) if label_noise else dataset
    excluded = () if rows is None else np.setdiff1d(np.arange(len(dataset)), rows).tolist()
    order = _EndlessOrder(BalancedBatches(dataset.labels, batch_size, seed, excluded), start)
    # Without a generator of its own, the loader would draw a seed from the global one.
    own = torch.Generator().manual_seed(seed)
    return iter(DataLoader(items, batch_sampler=order, num_workers=num_workers, generator=own))


class _EndlessOrder(Sampler[list[int]]):
    """Batches of successive epochs, starting at a given batch."""

    def __init__(self, epochs: BalancedBatches, start: int) -> None:
        self._epochs, self._start = epochs, start

    def __iter__(self) -> Iterator[list[int]]:
        self._epochs.epoch, skip = divmod(self._start, len(self._epochs))
        while True:
            for number, rows in enumerate(self._epochs):
                if number >= skip:
                    yield rows
            skip = 0


class FlippedLabels(Dataset[tuple[Tensor, int]]):
    """A data set in which a share of the labels of each class is flipped.

    Args:
        dataset: The data set with correct labels.
        share: Share of each class to flip; 0.5 leaves nothing to learn.
        seed: The same seed flips the same items.

    Attributes:
        flipped: Row numbers of the items with a flipped label.
    """

    def __init__(self, dataset: ForgeryDataset, share: float, seed: int = 0) -> None:
        self._dataset = dataset
        rng = np.random.default_rng([seed, 1])
        classes = [np.flatnonzero(dataset.labels == label) for label in (REAL, FAKE)]
        chosen = [rng.choice(rows, size=round(share * len(rows)), replace=False) for rows in classes]
        self.flipped = frozenset(int(row) for rows in chosen for row in rows)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self._dataset[index]
        return image, (FAKE + REAL - label if index in self.flipped else label)


def balanced_rows(dataset: ForgeryDataset, count: int) -> list[int]:
    """Select equally many real and fake items, evenly spaced over the data set.

    Args:
        dataset: The data set.
        count: Total number of items.

    Returns:
        Increasing row numbers, ``2 * (count // 2)`` of them.

    Raises:
        ProbeError: If a class has fewer than ``count // 2`` items.
    """
    half = count // 2
    chosen: list[int] = []
    for label, word in ((REAL, "real"), (FAKE, "fake")):
        rows = np.flatnonzero(dataset.labels == label)
        if len(rows) < half:
            raise ProbeError(
                f"expected {half} {word} images for train_samples={count}, got {len(rows)} in {dataset.name!r}; lower "
                "train_samples, or leave it out to train on all"
            )
        chosen += rows[np.linspace(0, len(rows) - 1, half).round().astype(int)].tolist()
    return sorted(chosen)
