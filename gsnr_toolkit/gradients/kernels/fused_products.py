r"""Products :math:`L_i^T R_i` merged into their moments by a compiled kernel, without being written out.

A matrix product's tile is summed over a sample's rows in registers and taken into mean and centred squares at once, as
the Triton kernel does on a GPU. What torch can do at best is form tiles of some samples and read them again
(:mod:`.tiles`).
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from gsnr_toolkit.gradients.kernels import native
from gsnr_toolkit.gradients.kernels.tiles import Workspace

MOST_ROWS = 384
"""Rows of a sample. With more, strips of both factors outgrow the caches, and torch's products, the price of which lies
ever more in the product itself, are faster (``python -m benchmarks.products --tokens``)."""


def fits(left: Tensor, right: Tensor, mean: Tensor) -> bool:
    """Whether the kernel can do the work, and does it faster.

    Args:
        left: Output gradients, shape ``(b, T, O)``.
        right: Inputs, as in :func:`merge`.
        mean: Where their mean goes, shape ``(O, I)`` or anything that flattens to it.

    Returns:
        Whether :func:`merge` may be called with the factors in full precision: False on other devices, with one row
        a sample (which has a closed form), and without the kernel.

    >>> fits(torch.ones(3, 1, 4), torch.ones(3, 1, 4), torch.zeros(4, 4))
    False
    """
    if mean.device.type != "cpu" or not 1 < left.shape[1] <= MOST_ROWS or not mean.numel() or not len(left):
        return False
    full = {torch.promote_types(factor.dtype, torch.float32) for factor in (left, right)}
    if full != {mean.dtype} or mean.stride(-1) != 1:
        return False
    return native.function("merge_products", mean.dtype) is not None


def merge(
    left: Tensor, right: Tensor, mean: Tensor, m2: Tensor | None, seen: int, workspace: Workspace, *, places: int = 1
) -> float:
    """Merge a batch's gradients into their moments, in place, where :func:`fits` says so.

    Args:
        left: Output gradients, shape ``(b, T, O)``, any strides.
        right: Inputs, shape ``(b, T, I)``, any strides; T and I may be dimensions that no view can join.
        mean: Mean of the samples so far, shape ``(O, I)``; overwritten where there were none.
        m2: Their sum of centred squares, likewise, with the mean's strides; None where only its sum is wanted.
        seen: How many they are.
        workspace: Memory.
        places: How many of the right one's dimensions are T.

    Returns:
        What the sum of all centred squares grows by, where ``m2`` is None.
    """
    call = native.function("merge_products", mean.dtype)
    assert call is not None
    left, right = left.resolve_neg(), right.resolve_neg()
    squares = None if m2 is None else m2.data_ptr()
    factors = (left.data_ptr(), _layout(left, 1), right.data_ptr(), _layout(right, places))
    given = (*factors, len(left), torch.get_num_threads(), mean.data_ptr(), squares, mean.stride(0), seen)
    memory = workspace.take((int(call(*given, None)),), mean)
    return call(*given, memory.data_ptr())


def _layout(factor: Tensor, places: int) -> ctypes.Array[ctypes.c_int64]:
    numbers = (factor.stride(0), places, factor.ndim - 1 - places, *factor.shape[1:], *factor.stride()[1:])
    return (ctypes.c_int64 * len(numbers))(*numbers)
