r"""Merge a matmul layer's per-sample weight gradients :math:`G_i = L_i^T R_i` into moments, by the fastest path.

1. On a CPU a compiled kernel forms and merges them at once (:mod:`.fused_products`).
2. Without the kernel, or with very many rows per sample, tiles of some samples are formed (:mod:`.tiles`) and merged
   while they are in the cache (:mod:`.merging`).
3. On other devices, and with one row per sample, both sums are taken about the first sample's gradient
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
        mean: Mean of the samples so far, shape ``(O, I)``; overwritten when ``seen`` is 0.
        m2: Their sum of centred squares; overwritten when ``seen`` is 0. None if only its total is wanted.
        seen: Number of samples so far.
        workspace: Scratch memory.

    Returns:
        Growth of the total of ``m2`` over all entries if ``m2`` is None.

    >>> import torch
    >>> mean, m2 = torch.zeros(1, 1), torch.zeros(1, 1)
    >>> left, right = torch.tensor([[[1.0]], [[3.0]]]), torch.ones(2, 1, 1)
    >>> _ = merge_products(left, right, mean, m2, 0, Workspace())
    >>> mean.item(), m2.item(), merge_products(left, right, mean, None, 0, Workspace())
    (2.0, 2.0, 2.0)
    """
    if mean.stride(0) < mean.stride(1):  # transposed: the kernels need contiguous rows
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
    own, squares = _mean_and_squares(left, right)
    if m2 is None:
        return float(squares.double().sum()) + merge_mean(mean, seen, len(left), own)
    if seen:
        merge_in(mean, m2, seen, len(left), own, squares)
    else:
        mean.copy_(own)
        m2.copy_(squares)
    return 0.0


def _mean_and_squares(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return the batch's mean and centred squares, from sums about the first sample's gradient."""
    left, right = left.detach(), right.detach()
    if not by_kernel(left):
        left, right = full_precision(left), full_precision(right)
    centre = full_precision(left[0]).mT @ full_precision(right[0])
    total, squares = product_sums(left[1:], right[1:], centre)
    squares.addcmul_(total, total, value=-1 / len(left)).clamp_(min=0)
    return centre.add_(total, alpha=1 / len(left)), squares
