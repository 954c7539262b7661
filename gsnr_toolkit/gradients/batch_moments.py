"""Moments of one batch of a matmul layer's per-sample weight gradients, on a CPU at the speed of its matrix products.

Measured (``python -m benchmarks.products``): one sample's product runs at nearly the speed of the product over the
whole batch if it is formed in tiles of some 1500 rows or columns, across the longer side, into memory that is used
again and again; fresh memory for each product costs as much as the product. What is added to that are two passes over
each tile, one a sum; both are bound by the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from gsnr_toolkit.gradients.products import by_kernel, product_sums
from gsnr_toolkit.gradients.terms import full_precision

TILE_ROWS = 1536

_ENOUGH = 12
"""Samples from which on pure noise practically never has a mean square that eats its own variance's digits."""

_LOST = 64.0
"""A sum of squares that exceeds the centred one by this factor anywhere has lost too many digits (6 of 24 bits)."""


@dataclass
class Workspace:
    """Memory for tiles that outlives a call; grows to the largest asked for.

    Attributes:
        cancelling: Layers whose squares must be taken about a sample's gradient, since their mean is large.
    """

    cancelling: set[str] = field(default_factory=set)
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


Pair: TypeAlias = tuple[Tensor, Tensor]


def batch_moments(
    left: Float[Tensor, "b t o"],
    right: Float[Tensor, "b t i"],
    workspace: Workspace,
    name: str = "",
    *,
    into: Pair | None = None,
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    r"""Mean and centred squares over the samples of :math:`G_i = L_i^T R_i`, some entries at a time.

    Squares are taken about zero where that costs no digits, which is seen from the result, and about the first
    sample's gradient otherwise, so that no large ones are subtracted.

    Args:
        left: Output gradients, shape ``(b, T, O)``.
        right: Inputs, shape ``(b, T, I)``.
        workspace: Memory; what is yielded lies in it, and is good until the next step, unless ``into`` is given.
        name: The layer, to remember how its squares must be taken.
        into: Two matrices ``(O, I)`` to be filled with the results, whose parts are then what is yielded.

    Yields:
        Rows, columns, and for them :math:`\bar G` and :math:`\sum_i (G_i - \bar G)^2`.

    >>> ((_, _, mean, m2),) = batch_moments(torch.tensor([[[1.0]], [[3.0]]]), torch.ones(2, 1, 1), Workspace())
    >>> mean.item(), m2.item()
    (2.0, 2.0)
    """
    left, right = left.detach(), right.detach()
    if left.device.type == "cpu" and left.shape[1] > 1:
        left, right = full_precision(left), full_precision(right)
        for rows, columns in _tiles(left, right):
            place = None if into is None else (into[0][rows, columns], into[1][rows, columns])
            yield rows, columns, *_tile(left[:, :, rows], right[:, :, columns], workspace, name, place)
        return
    if not by_kernel(left):
        left, right = full_precision(left), full_precision(right)
    dtype = torch.promote_types(left.dtype, torch.float32)
    centre = left[0].mT.to(dtype) @ right[0].to(dtype)
    total, squares = product_sums(left[1:], right[1:], centre)
    everything = slice(0, centre.shape[0]), slice(0, centre.shape[1])
    yield *everything, *_put(_finished(centre, total, squares, len(left)), into)


def _tiles(left: Tensor, right: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of tiles that are cut across the gradient's longer side."""
    outputs, inputs = left.shape[2], right.shape[2]
    count = max(outputs, inputs)
    step = -(-count // -(-count // TILE_ROWS))
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        yield (part, slice(0, inputs)) if outputs >= inputs else (slice(0, outputs), part)


def _tile(left: Tensor, right: Tensor, workspace: Workspace, name: str, into: Pair | None) -> Pair:
    if len(left) >= _ENOUGH and name not in workspace.cancelling:
        found = _about_zero(left, right, workspace, into)
        if found is not None:
            return found
        workspace.cancelling.add(name)
    return _put(_about_first(left, right, workspace), into)


def _put(found: Pair, into: Pair | None) -> Pair:
    return found if into is None else (into[0].copy_(found[0]), into[1].copy_(found[1]))


def _about_zero(left: Tensor, right: Tensor, workspace: Workspace, into: Pair | None) -> Pair | None:
    """Squares of the gradients as they are; None where subtracting the mean's would cost too many digits."""
    shape = (left.shape[2], right.shape[2])
    product, total, squares = (workspace.take(slot, shape, left) for slot in range(3))
    torch.mm(left[0].t(), right[0], out=total)
    torch.mul(total, total, out=squares)
    for left_i, right_i in zip(left[1:].unbind(), right[1:].unbind(), strict=True):
        torch.mm(left_i.t(), right_i, out=product)
        total.add_(product)
        squares.addcmul_(product, product)
    mean, centred = into or (total, product)
    torch.addcmul(squares, total, total, value=-1 / len(left), out=centred)
    if not float(squares.sub_(centred, alpha=_LOST).max()) <= 0:  # also where it is not a number
        return None
    return torch.mul(total, 1 / len(left), out=mean), centred


def _about_first(left: Tensor, right: Tensor, workspace: Workspace) -> Pair:
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


def batch_sums(
    left: Float[Tensor, "b t o"], right: Float[Tensor, "b t i"], workspace: Workspace
) -> Iterator[tuple[slice, slice, Tensor, float]]:
    r"""Sum over the samples of :math:`G_i = L_i^T R_i`, tile by tile, each with its share of :math:`\sum_i |G_i|^2`.

    Args:
        left: Output gradients, shape ``(b, T, O)``.
        right: Inputs, shape ``(b, T, I)``.
        workspace: Memory; what is yielded lies in it, and is good until the next step.

    Yields:
        Rows, columns, and for them :math:`\sum_i G_i` and the sum of all squares.

    >>> ((_, _, total, squares),) = batch_sums(torch.tensor([[[1.0]], [[3.0]]]), torch.ones(2, 1, 1), Workspace())
    >>> total.item(), squares
    (4.0, 10.0)
    """
    left, right = full_precision(left.detach()), full_precision(right.detach())
    for rows, columns in _tiles(left, right):
        part_left, part_right = left[:, :, rows], right[:, :, columns]
        product, total = (workspace.take(slot, (part_left.shape[2], part_right.shape[2]), left) for slot in range(2))
        norms = left.new_empty(len(left), len(total))
        torch.mm(part_left[0].t(), part_right[0], out=total)
        torch.linalg.vector_norm(total, dim=1, out=norms[0])
        for i in range(1, len(left)):
            torch.mm(part_left[i].t(), part_right[i], out=product)
            total.add_(product)
            torch.linalg.vector_norm(product, dim=1, out=norms[i])
        yield rows, columns, total, float(norms.double().square_().sum())


def square_sum(matrix: Tensor) -> float:
    """Sum of squares of a matrix, in float64 over its rows.

    One inner product over a million float32 entries is off by 4e-5, and always to the same side.

    Args:
        matrix: Two dimensions.

    Returns:
        The squared Frobenius norm.

    >>> round(square_sum(torch.full((2, 3), 2.0)), 4)
    24.0
    """
    return float(torch.linalg.vector_norm(matrix, dim=1).double().square_().sum())


def _finished(centre: Tensor, total: Tensor, squares: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and centred squares from sums about a centre, in place."""
    squares.addcmul_(total, total, value=-1 / count).clamp_(min=0)
    return centre.add_(total, alpha=1 / count), squares
