"""Sum of per-sample weight gradients and their squared norms, by whichever way costs less for the shapes at hand.

With :math:`G_i = L_i^T R_i` (left ``(T, O)``, right ``(T, I)``), the norm needs no G:
:math:`|G_i|^2 = <L_i L_i^T, R_i R_i^T>`, the ghost identity. It costs :math:`T^2 (O + I)` products beside the one
product that the sum over samples needs; forming each G instead costs a pass over its ``O I`` entries.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

PASS_COST, FUSED_COST = 35.0, 10.0
"""What an entry of G costs beside its matrix product, in multiply-adds of a matrix product, where it is formed and read
again (at least: up to twice that was measured), and where a compiled kernel sums it up as it is formed. ``python -m
benchmarks.products`` measures both."""

_GHOST_BYTES = 2**27


def ghost_sums(left: Float[Tensor, "b t o"], right: Float[Tensor, "b t i"]) -> tuple[Float[Tensor, "o i"], float]:
    """Sum over samples by one matrix product, and sum of squared norms by the ghost identity.

    Args:
        left: Output gradients, shape ``(b, T, O)``.
        right: Inputs, shape ``(b, T, I)``.

    Returns:
        ``sum_i G_i`` (O, I), and ``sum_i |G_i|^2``.

    >>> total, sqnorms = ghost_sums(torch.ones(2, 3, 4), torch.ones(2, 3, 5))
    >>> total.shape, total[0, 0].item(), sqnorms
    (torch.Size([4, 5]), 6.0, 360.0)
    """
    dtype = torch.promote_types(left.dtype, torch.float32)
    left, right = left.to(dtype), right.to(dtype)
    total = left.reshape(-1, left.shape[2]).mT @ right.reshape(-1, right.shape[2])
    return total, ghost_sqnorms(left, right)


def ghost_is_cheaper(rows: int, outputs: int, inputs: int, entry_cost: float = PASS_COST) -> bool:
    """Whether inner products of rows cost less than forming the matrix.

    Args:
        rows: Of a sample.
        outputs: Of the matrix.
        inputs: Of the matrix.
        entry_cost: What an entry costs beside its product.

    Returns:
        True for few rows and wide matrices.

    >>> ghost_is_cheaper(1, 768, 768), ghost_is_cheaper(4096, 64, 64)
    (True, False)
    """
    return rows * rows * (outputs + inputs) < entry_cost * outputs * inputs


def ghost_sqnorms(left: Float[Tensor, "b t o"], right: Float[Tensor, "b t i"]) -> float:
    """Sum of squared norms by the ghost identity.

    Returns:
        ``sum_i |L_i^T R_i|^2``.
    """
    step = max(1, _GHOST_BYTES // max(1, 8 * left.shape[1] ** 2))
    found = 0.0
    for start in range(0, left.shape[0], step):
        a, b = left[start : start + step], right[start : start + step]
        found += float((torch.bmm(a, a.mT) * torch.bmm(b, b.mT)).double().sum())
    return found
