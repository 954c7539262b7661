r"""Moments of a matmul layer's per-sample weight gradients :math:`G_i = L_i^T R_i`, by whichever way there is.

On a CPU a compiled kernel forms and merges them at once (:mod:`.fused_products`). Without it, and with very many rows a
sample, a tile of some samples is formed (:mod:`.tiles`) and merged into the sums while it lies in the cache
(:mod:`.merging`). On other devices, and with one row a sample, both sums are taken about the first sample's gradient
(:mod:`.products`).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from gsnr_toolkit.gradients.kernels import fused_products
from gsnr_toolkit.gradients.kernels.merging import merge_samples
from gsnr_toolkit.gradients.kernels.products import by_kernel, product_sums
from gsnr_toolkit.gradients.kernels.tiles import Workspace, formed, tiles
from gsnr_toolkit.gradients.taps.terms import full_precision
from gsnr_toolkit.moments.by_group import merge_mean
from gsnr_toolkit.moments.by_parameter import merge_in


def merge_products(
    left: Float[Tensor, "b t o"],
    right: Float[Tensor, "b t i"],
    mean: Float[Tensor, "o i"],
    m2: Float[Tensor, "o i"] | None,
    seen: int,
    workspace: Workspace,
) -> float:
    r"""Merge a batch's gradients into mean and sum of centred squares, in place.

    Args:
        left: Output gradients, shape ``(b, T, O)``.
        right: Inputs, shape ``(b, T, I)``.
        mean: Mean of the samples so far, shape ``(O, I)``; overwritten where there were none.
        m2: Their sum of centred squares; likewise. None where only its sum over all entries is wanted.
        seen: How many they are.
        workspace: Memory.

    Returns:
        What that sum grows by, where ``m2`` is None.

    >>> import torch
    >>> mean, m2 = torch.zeros(1, 1), torch.zeros(1, 1)
    >>> left, right = torch.tensor([[[1.0]], [[3.0]]]), torch.ones(2, 1, 1)
    >>> _ = merge_products(left, right, mean, m2, 0, Workspace())
    >>> mean.item(), m2.item(), merge_products(left, right, mean, None, 0, Workspace())
    (2.0, 2.0, 2.0)
    """
    if mean.stride(0) < mean.stride(1):  # a transposed one: rows must be contiguous
        left, right, mean, m2 = right, left, mean.t(), None if m2 is None else m2.t()
    if left.device.type != "cpu" or left.shape[1] == 1:
        return _merge_whole(left, right, mean, m2, seen)
    left, right = full_precision(left.detach()), full_precision(right.detach())
    if fused_products.fits(left, right, mean):
        return fused_products.merge(left, right, mean, m2, seen, workspace)
    grown = 0.0
    for rows, columns in tiles(*mean.shape):
        count, squares = seen, None if m2 is None else m2[rows, columns]
        for samples in formed(left[:, :, rows], right[:, :, columns], workspace):
            grown += merge_samples(samples, mean[rows, columns], squares, count)
            count += len(samples)
    return grown


def _merge_whole(left: Tensor, right: Tensor, mean: Tensor, m2: Tensor | None, seen: int) -> float:
    own, squares = _whole(left, right)
    if m2 is None:
        return float(squares.double().sum()) + merge_mean(mean, seen, len(left), own)
    if seen:
        merge_in(mean, m2, seen, len(left), own, squares)
    else:
        mean.copy_(own)
        m2.copy_(squares)
    return 0.0


def _whole(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and centred squares of the whole matrix, from sums about the first sample's gradient."""
    left, right = left.detach(), right.detach()
    if not by_kernel(left):
        left, right = full_precision(left), full_precision(right)
    centre = full_precision(left[0]).mT @ full_precision(right[0])
    total, squares = product_sums(left[1:], right[1:], centre)
    squares.addcmul_(total, total, value=-1 / len(left)).clamp_(min=0)
    return centre.add_(total, alpha=1 / len(left)), squares
