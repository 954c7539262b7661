"""Squared norms of per-sample weight gradients from their factors (ghost norms), and when they are worth it.

With :math:`G_i = L_i^T R_i` (left ``(T, O)``, right ``(T, I)``), the norm does not need G:
:math:`|G_i|^2 = <L_i L_i^T, R_i R_i^T>`, the ghost identity. It costs :math:`T^2 (O + I)` multiplications on top of the
one product that the sum over samples needs. Forming each G costs a pass over its ``O I`` entries instead.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

PASS_COST, FUSED_COST = 35.0, 10.0
"""Cost of one entry of G on top of its matrix product, in multiply-adds of a matrix product. The first holds where G is
formed and read again (a lower bound: up to twice that was measured), the second where a compiled kernel sums it as it
is formed. ``python -m benchmarks.products`` measures both."""

_GHOST_BYTES = 2**27
"""Memory for inner products of rows."""


def ghost_sums(left: Float[Tensor, "b t o"], right: Float[Tensor, "b t i"]) -> tuple[Float[Tensor, "o i"], float]:
    """Sum gradients by one matrix product, and their squared norms by the ghost identity.

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
    """Whether ghost norms cost less than forming each gradient.

    Args:
        rows: Rows of a sample, T.
        outputs: Rows of the matrix, O.
        inputs: Columns of the matrix, I.
        entry_cost: Cost of one entry of the matrix on top of its product.

    Returns:
        True for few rows and wide matrices.

    >>> ghost_is_cheaper(1, 768, 768), ghost_is_cheaper(4096, 64, 64)
    (True, False)
    """
    return rows * rows * (outputs + inputs) < entry_cost * outputs * inputs


def ghost_sqnorms(left: Float[Tensor, "b t o"], right: Float[Tensor, "b t i"]) -> float:
    """Sum squared norms by the ghost identity: ``sum_i |L_i^T R_i|^2``."""
    step = max(1, _GHOST_BYTES // max(1, 8 * left.shape[1] ** 2))
    found = 0.0
    for start in range(0, left.shape[0], step):
        a, b = left[start : start + step], right[start : start + step]
        found += float((torch.bmm(a, a.mT) * torch.bmm(b, b.mT)).double().sum())
    return found
