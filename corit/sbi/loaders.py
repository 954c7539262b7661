"""Batches of whole pairs, with new blends in every epoch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from corit.sbi.dataset import SelfBlended
from gsnr_toolkit.data.base import DataError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PairBatches", "pair_loader"]


class PairBatches(Sampler[list[tuple[int, int]]]):
    """Batches of ``(row, epoch)`` that hold whole pairs, shuffled in every epoch.

    Epoch ``e`` depends on ``(seed, e)`` alone. ``e`` counts the passes over this object and can be set, so that a
    resumed run continues where it stopped. The epoch travels with the row, so that it reaches every worker.

    Attributes:
        epoch: The number of the next pass.
    """

    def __init__(self, pairs: int, batch_size: int, seed: int = 0, exclude: Collection[int] = ()) -> None:
        if batch_size < 2 or batch_size % 2:
            raise DataError(
                f"expected an even batch_size of at least 2, got {batch_size}; pass an even number, for whole pairs"
            )
        left_out = {row // 2 for row in exclude}
        self._pairs = np.setdiff1d(np.arange(pairs), sorted(left_out))
        if not len(self._pairs):
            raise DataError(
                f"expected at least one pair to be left, but exclude removes {len(left_out)} of {pairs}; exclude fewer "
                "rows"
            )
        self._per_batch = min(batch_size // 2, len(self._pairs))
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._pairs) // self._per_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        self.epoch += 1
        order = np.random.default_rng([self._seed, epoch]).permutation(self._pairs).tolist()
        for start in range(0, len(self) * self._per_batch, self._per_batch):
            chosen = order[start : start + self._per_batch]
            yield [(2 * pair + member, epoch) for pair in chosen for member in (0, 1)]


def pair_loader(
    dataset: SelfBlended,
    batch_size: int = 32,
    seed: int = 0,
    exclude: Collection[int] = (),
    num_workers: int = 0,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Make a shuffled loader of whole pairs; one pass is one epoch, and each epoch has its own blends.

    The general :func:`gsnr_toolkit.data.loaders.train_loader` works too, with the blends of ``dataset.epoch`` in every
    pass; it makes a pair twice if its rows fall in different batches.

    Args:
        dataset: The pairs.
        batch_size: Images per batch, an even number: half as many pairs.
        seed: Seed of the order.
        exclude: Row numbers to leave out, together with the other row of their pair.
        num_workers: Processes that make pairs; with 0, this process makes them.

    Returns:
        A loader of ``(images (B, 3, S, S) float32, labels (B,) int64)``. ``images[0::2]`` are targets, and
        ``images[1::2]`` their blends.

    >>> from corit.sbi.dataset import open_sbi
    >>> loader = pair_loader(open_sbi(size=8, image_size=32), batch_size=4)
    >>> [labels.tolist() for _, labels in loader]
    [[0, 1, 0, 1], [0, 1, 0, 1]]
    """
    batches = PairBatches(len(dataset) // 2, batch_size, seed, exclude)
    own = torch.Generator().manual_seed(seed)
    items: Dataset[Any] = dataset
    return DataLoader(items, batch_sampler=batches, num_workers=num_workers, generator=own)
