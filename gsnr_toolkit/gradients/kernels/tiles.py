"""Per-sample products formed some samples and one tile at a time, at the best speed that torch's own products give.

Measured (``python -m benchmarks.products --tiles``): that takes one batched call for some samples, each on a core of
its own, tiles that leave all of them in the cache, and memory that is used again and again; fresh memory for each
product costs as much as the product.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

SAMPLES_AT_ONCE = 8
"""Samples whose tiles are formed by one call."""

TILE_ENTRIES, TILE_COLUMNS = 2**20, 1024
"""Most entries and columns of a tile: in float32, those of all samples at once take 32 MiB."""


class Workspace:
    """Memory for tiles that outlives a call; grows to the largest asked for."""

    def __init__(self) -> None:
        self._held: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Uninitialised memory, the same every time.

        Returns:
            A contiguous tensor of the shape, of ``like``'s dtype and device.
        """
        key, size = (like.dtype, like.device), prod(shape)
        if key not in self._held or self._held[key].numel() < size:
            self._held[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return self._held[key][:size].view(shape)


def tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Cut a matrix into tiles.

    Args:
        rows: Its rows.
        columns: Its columns.

    Yields:
        Rows and columns of a tile.

    >>> [(down.start, across.start) for down, across in tiles(2000, 2000)]
    [(0, 0), (1000, 0), (0, 1000), (1000, 1000)]
    """
    for across in _even_parts(columns, TILE_COLUMNS):
        for down in _even_parts(rows, max(1, TILE_ENTRIES // (across.stop - across.start))):
            yield down, across


def formed(left: Tensor, right: Tensor, workspace: Workspace) -> Iterator[Tensor]:
    r"""Form the gradients :math:`L_i^T R_i` of some samples at a time.

    Args:
        left: Output gradients, shape ``(b, T, o)``.
        right: Inputs, shape ``(b, T, i)``.
        workspace: Memory; what is yielded lies in it, and is good until the next step.

    Yields:
        Shape ``(c, o, i)``, contiguous, c at most :data:`SAMPLES_AT_ONCE`.

    >>> [tuple(some.shape) for some in formed(torch.ones(11, 2, 3), torch.ones(11, 2, 4), Workspace())]
    [(6, 3, 4), (5, 3, 4)]
    """
    for part in _even_parts(len(left), SAMPLES_AT_ONCE):
        some_left, some_right = left[part].mT, right[part]
        products = workspace.take((len(some_left), some_left.shape[1], some_right.shape[2]), left)
        yield torch.bmm(some_left, some_right, out=products)


def _even_parts(count: int, most: int) -> Iterator[slice]:
    """Cut a range into as few parts as may be, all of one size but the last."""
    if not count:
        return
    step = -(-count // -(-count // most))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
