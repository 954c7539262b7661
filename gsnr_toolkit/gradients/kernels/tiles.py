"""Form per-sample products a few samples and one tile at a time, at the best speed of torch's own products.

``python -m benchmarks.products --tiles`` measured what that speed needs: one batched call for several samples, each on
its own core; tiles small enough that all samples stay in the cache; and reused memory. Fresh memory for each product
costs as much as the product.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

SAMPLES_AT_ONCE = 8
"""Number of samples whose tiles one call forms."""

TILE_ENTRIES, TILE_COLUMNS = 2**20, 1024
"""Most entries and columns of a tile. In float32, the tiles of :data:`SAMPLES_AT_ONCE` samples take 32 MiB."""


class Workspace:
    """Scratch memory that is kept between calls; it grows to the largest request."""

    def __init__(self) -> None:
        self._held: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return the same uninitialised memory on every call: a contiguous tensor with ``like``'s dtype and device."""
        key, size = (like.dtype, like.device), prod(shape)
        if key not in self._held or self._held[key].numel() < size:
            self._held[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return self._held[key][:size].view(shape)


def tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Cut a matrix into tiles.

    Args:
        rows: Number of rows.
        columns: Number of columns.

    Yields:
        Row slice and column slice of a tile.

    >>> [(down.start, across.start) for down, across in tiles(2000, 2000)]
    [(0, 0), (1000, 0), (0, 1000), (1000, 1000)]
    """
    for across in _even_parts(columns, TILE_COLUMNS):
        for down in _even_parts(rows, max(1, TILE_ENTRIES // (across.stop - across.start))):
            yield down, across


def formed(left: Tensor, right: Tensor, workspace: Workspace) -> Iterator[Tensor]:
    r"""Form the gradients :math:`L_i^T R_i`, a few samples at a time.

    Args:
        left: Output gradients, shape ``(b, T, o)``.
        right: Inputs, shape ``(b, T, i)``.
        workspace: Scratch memory. It holds the yielded tensor, which is valid until the next step.

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
    """Cut a range into as few parts as possible, all of the same size except the last."""
    if not count:
        return
    step = -(-count // -(-count // most))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
