"""Rules of embeddings and indexing."""

from __future__ import annotations

import torch
from torch import Tensor

from gsnr_toolkit.gradients.taps.rules.use import Use, rule
from gsnr_toolkit.gradients.taps.terms import Gathered, Term


@rule("EmbeddingBackward")
def _embedding(use: Use) -> Term | None:
    node = use.node
    indices = node._saved_indices
    if node._saved_scale_grad_by_freq or use.owner.dim >= indices.ndim:
        return None
    padding = node._saved_padding_idx
    padding = padding - 2**64 if padding >= 2**63 else padding  # nodes show -1 (no padding) as unsigned
    gradient = use.gradient
    if padding >= 0:
        gradient = gradient.masked_fill((indices == padding).unsqueeze(-1), 0)
    return _looked_up(use, use.split(indices), use.split(gradient))


@rule("IndexBackward")
def _index(use: Use) -> Term | None:
    """``table[indices]``, with one tensor of indices for the first dimension."""
    first, *others = use.node._saved_indices
    if first is None or first.dtype == torch.bool or any(other is not None for other in others):
        return None
    if use.owner.dim >= first.ndim:
        return None
    return _looked_up(use, use.split(first % use.shape[0]), use.grad)


@rule("IndexSelectBackward")
def _index_select(use: Use) -> Term | None:
    if use.node._saved_dim != 0 or use.owner.dim != 0:
        return None
    return _looked_up(use, use.split(use.node._saved_index), use.grad)


def _looked_up(use: Use, rows: Tensor, grad: Tensor) -> Gathered:
    flat = rows.reshape(use.count, -1)
    return Gathered(flat, grad.reshape(use.count, flat.shape[1], -1), use.shape)
