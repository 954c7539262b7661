"""Rules of matrix products."""

from __future__ import annotations

from dataclasses import replace

import torch

from gsnr_toolkit.gradients.taps.rules.use import Use, added, rule
from gsnr_toolkit.gradients.taps.terms import Computed, Products, Stored, Term, full_precision


def _product(use: Use, first: str, second: str, factor: float = 1.0) -> Term | None:
    """Matrix product ``first @ second``; one factor is the parameter's, the other one holds samples."""
    weight_is_second = use.slot == 1
    if use.owner.dim != (0 if weight_is_second else 1):
        return None
    grad = use.grad if factor == 1 else use.grad * factor
    if weight_is_second:
        return Products(use.split(getattr(use.node, f"_saved_{first}")), grad, use.shape)
    rows = use.split(getattr(use.node, f"_saved_{second}"))
    return Products(grad.mT, rows.mT, use.shape)


@rule("MmBackward")
def _mm(use: Use) -> Term | None:
    return _product(use, "self", "mat2")


@rule("AddmmBackward")
def _addmm(use: Use) -> Term | None:
    if use.slot == 0:
        return added(use, use.node._saved_beta)
    return _product(replace(use, slot=use.slot - 1), "mat1", "mat2", use.node._saved_alpha)


@rule("BmmBackward")
def _bmm(use: Use) -> Term | None:
    """Batch of matrix products; samples are rows or columns of the output, not entries of the batch."""
    if use.owner.dim != (2 if use.slot == 0 else 1):
        return None
    grad = use.grad
    if use.slot == 1:
        rows = use.split(use.node._saved_self)
        return Computed(lambda a, b: full_precision(rows[a:b]).mT @ full_precision(grad[a:b]), use.count, use.shape)
    columns = use.split(use.node._saved_mat2)
    return Computed(lambda a, b: full_precision(grad[a:b]) @ full_precision(columns[a:b]).mT, use.count, use.shape)


@rule("MvBackward")
def _mv(use: Use) -> Term | None:
    if use.slot != 1:
        return None
    rows = use.split(use.node._saved_self)
    return Stored(torch.einsum("nt,ntk->nk", full_precision(use.grad), full_precision(rows)))


@rule("LinearBackward")
def _linear(use: Use) -> Term | None:
    if use.slot == 2:
        return added(use, 1)
    if use.slot != 1 or use.owner.dim == len(use.output_shape) - 1:
        return None
    grad, rows = use.grad, use.split(use.node._saved_input)
    return Products(grad.reshape(use.count, -1, grad.shape[-1]), rows.reshape(use.count, -1, rows.shape[-1]), use.shape)
