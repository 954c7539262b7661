r"""Moments of a matmul layer's per-sample weight gradients :math:`G_i = L_i^T R_i`, of which some exist at a time.

On a CPU a tile of some samples is formed (:mod:`.tiles`) and merged into the sums while it lies in the cache
(:mod:`.merging`); elsewhere, and with one row a sample, both sums are taken about the first sample's gradient
(:mod:`.products`).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from gsnr_toolkit.gradients.merging import merge_samples, merge_spread
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
    if _in_tiles(left):
        left, right = full_precision(left.detach()), full_precision(right.detach())
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


def mean_and_spread(
    left: Float[Tensor, "b t o"], right: Float[Tensor, "b t i"], mean: Float[Tensor, "o i"], workspace: Workspace
) -> float:
    r"""Put the mean of a batch's gradients into its place, and add all their centred squares up.

    Args:
        left: Output gradients, shape ``(b, T, O)``.
        right: Inputs, shape ``(b, T, I)``.
        mean: Overwritten with :math:`\bar G`, shape ``(O, I)``.
        workspace: Memory.

    Returns:
        :math:`\sum_i |G_i - \bar G|^2`.

    >>> import torch
    >>> mean = torch.zeros(1, 1)
    >>> mean_and_spread(torch.tensor([[[1.0]], [[3.0]]]), torch.ones(2, 1, 1), mean, Workspace()), mean.item()
    (2.0, 2.0)
    """
    if mean.stride(0) < mean.stride(1):
        left, right, mean = right, left, mean.t()
    if not _in_tiles(left):
        own, squares = _whole(left, right)
        mean.copy_(own)
        return float(squares.double().sum())
    left, right = full_precision(left.detach()), full_precision(right.detach())
    spread = 0.0
    for rows, columns in tiles(*mean.shape):
        count = 0
        for samples in formed(left[:, :, rows], right[:, :, columns], workspace):
            spread += merge_spread(samples, mean[rows, columns], count)
            count += len(samples)
    return spread


def _in_tiles(left: Tensor) -> bool:
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
