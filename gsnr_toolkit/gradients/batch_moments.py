"""Moments of one batch of a matmul layer's per-sample weight gradients, on a CPU at the speed of its matrix products.

Measured (``python -m benchmarks.products``): one sample's product runs at 90 to 95 % of the speed of the product over
the whole batch if it is formed tall (more rows than columns), in tiles of some 1500 rows, into memory that is used
again and again; fresh memory for each product costs as much as the product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from gsnr_toolkit.gradients.products import by_kernel, product_sums
from gsnr_toolkit.gradients.terms import full_precision

TILE_ROWS = 1536


@dataclass
class Workspace:
    """Memory for tiles that outlives a call; grows to the largest asked for."""

    _held: dict[tuple[int, torch.dtype, torch.device], Tensor] = field(default_factory=dict)

    def take(self, slot: int, shape: tuple[int, int], like: Tensor) -> Tensor:
        """Uninitialised memory, the same for the same slot.

        Returns:
            A tensor of the shape, of ``like``'s dtype and device.
        """
        key, size = (slot, like.dtype, like.device), shape[0] * shape[1]
        if key not in self._held or self._held[key].numel() < size:
            self._held[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return self._held[key][:size].view(shape)


def batch_moments(
    left: Float[Tensor, "b t o"], right: Float[Tensor, "b t i"], workspace: Workspace
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    r"""Mean and centred squares over the samples of :math:`G_i = L_i^T R_i`, some entries at a time.

    Squares are taken about the first sample's gradient, so that no large ones are subtracted.

    Args:
        left: Output gradients, shape ``(b, T, O)``.
        right: Inputs, shape ``(b, T, I)``.
        workspace: Memory; what is yielded lies in it, and is good until the next step.

    Yields:
        Rows, columns, and for them :math:`\bar G` and :math:`\sum_i (G_i - \bar G)^2`.

    >>> ((_, _, mean, m2),) = batch_moments(torch.tensor([[[1.0]], [[3.0]]]), torch.ones(2, 1, 1), Workspace())
    >>> mean.item(), m2.item()
    (2.0, 2.0)
    """
    left, right = left.detach(), right.detach()
    if left.device.type == "cpu" and left.shape[1] > 1:
        yield from _tall_tiles(full_precision(left), full_precision(right), workspace)
        return
    if not by_kernel(left):
        left, right = full_precision(left), full_precision(right)
    dtype = torch.promote_types(left.dtype, torch.float32)
    centre = left[0].mT.to(dtype) @ right[0].to(dtype)
    total, squares = product_sums(left[1:], right[1:], centre)
    everything = slice(0, centre.shape[0]), slice(0, centre.shape[1])
    yield *everything, *_finished(centre, total, squares, len(left))


def _tall_tiles(left: Tensor, right: Tensor, workspace: Workspace) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    turned = left.shape[2] < right.shape[2]
    if turned:
        left, right = right, left
    count, width = left.shape[2], right.shape[2]
    parts = -(-count // TILE_ROWS)
    step = -(-count // parts)
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        mean, m2 = _tile(left[:, :, rows], right, workspace)
        if turned:
            shape = (width, rows.stop - rows.start)
            turned_mean, turned_m2 = (workspace.take(slot, shape, mean) for slot in (4, 5))
            yield slice(0, width), rows, turned_mean.copy_(mean.t()), turned_m2.copy_(m2.t())
        else:
            yield rows, slice(0, width), mean, m2


def _tile(left: Tensor, right: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
    shape = (left.shape[2], right.shape[2])
    centre, deviation, total, squares = (workspace.take(slot, shape, left) for slot in range(4))
    torch.mm(left[0].t(), right[0], out=centre)
    total.zero_()
    squares.zero_()
    for left_i, right_i in zip(left[1:].unbind(), right[1:].unbind(), strict=True):
        torch.addmm(centre, left_i.t(), right_i, beta=-1, out=deviation)
        total.add_(deviation)
        squares.addcmul_(deviation, deviation)
    return _finished(centre, total, squares, len(left))


def _finished(centre: Tensor, total: Tensor, squares: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and centred squares from sums about a centre, in place."""
    squares.addcmul_(total, total, value=-1 / count).clamp_(min=0)
    return centre.add_(total, alpha=1 / count), squares
