r"""Moments of a matmul layer's per-sample weight gradients :math:`G_i = L_i^T R_i`, of which some exist at a time.

On a CPU a compiled kernel forms and merges them at once (:mod:`.fused_products`). Without it, and with very many rows a
sample, a tile of some samples is formed (:mod:`.tiles`) and merged into the sums while it lies in the cache
(:mod:`.merging`). On other devices, and with one row a sample, both sums are taken about the first sample's gradient
(:mod:`.products`).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from gsnr_toolkit.gradients import fused_products
from gsnr_toolkit.gradients.merging import merge_samples, merge_spread, square_sum
from gsnr_toolkit.gradients.products import by_kernel, product_sums
from gsnr_toolkit.gradients.terms import full_precision
from gsnr_toolkit.gradients.tiles import Workspace, formed, tiles
from gsnr_toolkit.moments import merge_in


def merge_products(
    left: Float[Tensor, "b t o"],
    right: Float[Tensor, "b t i"],
    mean: Float[Tensor, "o i"],
    m2: Float[Tensor, "o i"],
    seen: int,
    workspace: Workspace,
) -> None:
    r"""Merge a batch's gradients into mean and sum of centred squares, in place.

    Args:
        left: Output gradients, shape ``(b, T, O)``.
        right: Inputs, shape ``(b, T, I)``.
        mean: Mean of the samples so far, shape ``(O, I)``; overwritten where there were none.
        m2: Their sum of centred squares; likewise.
        seen: How many they are.
        workspace: Memory.

    >>> import torch
    >>> mean, m2 = torch.zeros(1, 1), torch.zeros(1, 1)
    >>> merge_products(torch.tensor([[[1.0]], [[3.0]]]), torch.ones(2, 1, 1), mean, m2, 0, Workspace())
    >>> mean.item(), m2.item()
    (2.0, 2.0)
    """
    if mean.stride(0) < mean.stride(1):  # a transposed one: rows must be contiguous
        left, right, mean, m2 = right, left, mean.t(), m2.t()
    if _on_cpu(left):
        left, right = full_precision(left.detach()), full_precision(right.detach())
        if fused_products.fits(left, right, mean):
            fused_products.merge(left, right, mean, m2, seen, workspace)
            return
        for rows, columns in tiles(*mean.shape):
            count, places = seen, (mean[rows, columns], m2[rows, columns])
            for samples in formed(left[:, :, rows], right[:, :, columns], workspace):
                merge_samples(samples, *places, count)
                count += len(samples)
        return
    own, squares = _whole(left, right)
    if seen:
        merge_in(mean, m2, seen, len(left), own, squares)
    else:
        mean.copy_(own)
        m2.copy_(squares)


def merge_products_spread(
    left: Float[Tensor, "b t o"],
    right: Float[Tensor, "b t i"],
    mean: Float[Tensor, "o i"],
    seen: int,
    workspace: Workspace,
) -> float:
    r"""The same where of the squares only their sum over all entries is kept.

    Args:
        left: Output gradients, shape ``(b, T, O)``.
        right: Inputs, shape ``(b, T, I)``.
        mean: Mean of the samples so far, shape ``(O, I)``; overwritten where there were none.
        seen: How many they are.
        workspace: Memory.

    Returns:
        What the sum of all centred squares grows by; :math:`\sum_i |G_i - \bar G|^2` where there were none.

    >>> import torch
    >>> mean = torch.zeros(1, 1)
    >>> left = torch.tensor([[[1.0]], [[3.0]]])
    >>> merge_products_spread(left, torch.ones(2, 1, 1), mean, 0, Workspace()), mean.item()
    (2.0, 2.0)
    """
    if mean.stride(0) < mean.stride(1):
        left, right, mean = right, left, mean.t()
    if not _on_cpu(left):
        return _whole_spread(left, right, mean, seen)
    left, right = full_precision(left.detach()), full_precision(right.detach())
    if fused_products.fits(left, right, mean):
        return fused_products.merge(left, right, mean, None, seen, workspace)
    grown = 0.0
    for rows, columns in tiles(*mean.shape):
        count = seen
        for samples in formed(left[:, :, rows], right[:, :, columns], workspace):
            grown += merge_spread(samples, mean[rows, columns], count)
            count += len(samples)
    return grown


def _on_cpu(left: Tensor) -> bool:
    return left.device.type == "cpu" and left.shape[1] > 1


def _whole(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and centred squares of the whole matrix, from sums about the first sample's gradient."""
    left, right = left.detach(), right.detach()
    if not by_kernel(left):
        left, right = full_precision(left), full_precision(right)
    centre = full_precision(left[0]).mT @ full_precision(right[0])
    total, squares = product_sums(left[1:], right[1:], centre)
    squares.addcmul_(total, total, value=-1 / len(left)).clamp_(min=0)
    return centre.add_(total, alpha=1 / len(left)), squares


def _whole_spread(left: Tensor, right: Tensor, mean: Tensor, seen: int) -> float:
    own, squares = _whole(left, right)
    spread, count = float(squares.double().sum()), len(left)
    if not seen:
        mean.copy_(own)
        return spread
    gap = own.sub_(mean)
    mean.add_(gap, alpha=count / (seen + count))
    return spread + square_sum(gap) * seen * count / (seen + count)
