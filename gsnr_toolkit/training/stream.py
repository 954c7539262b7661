"""Training batches that can be taken up at any step, and labels that are wrong on purpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from gsnr_toolkit.data.base import FAKE, REAL, ForgeryDataset
from gsnr_toolkit.data.loaders import BalancedBatches
from gsnr_toolkit.errors import ProbeError

if TYPE_CHECKING:
    from torch import Tensor

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
    """Class-balanced training batches without end; batch t is the same wherever one starts.

    Args:
        dataset: Where the items come from.
        batch_size: Items per batch.
        seed: Of the order, of the draw from the larger class and of the wrong labels.
        start: Number of the first batch; those before it are not read.
        rows: Row numbers to train on; all when None.
        label_noise: Share of labels of each class that are flipped, the same ones at every pass.
        num_workers: Processes that read images; 0 reads in this one.

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
    own = torch.Generator().manual_seed(seed)
    return iter(DataLoader(items, batch_sampler=order, num_workers=num_workers, generator=own))


class _EndlessOrder(Sampler[list[int]]):
    """The batches of one epoch after the other, from a given batch on."""

    def __init__(self, epochs: BalancedBatches, start: int) -> None:
        self._epochs, self._start = epochs, start

    def __iter__(self) -> Iterator[list[int]]:
        self._epochs.epoch, skip = divmod(self._start, len(self._epochs))
        while True:
            for number, rows in enumerate(self._epochs):
                if number >= skip:
                    yield rows
            skip = 0


class FlippedLabels(Dataset[tuple["Tensor", int]]):
    """A data set in which a share of the labels of each class is wrong.

    Args:
        dataset: The data set with right labels.
        share: Share of each class to flip; 0.5 leaves nothing to learn.
        seed: The same seed flips the same items.

    Attributes:
        flipped: Row numbers of the items with a wrong label.
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
    """Pick as many real as fake items, evenly spaced over the data set.

    Args:
        dataset: Where from.
        count: How many in all.

    Returns:
        Increasing row numbers, ``2 * (count // 2)`` of them.

    Raises:
        ProbeError: If a class has fewer than half of them.
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
