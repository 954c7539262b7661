r"""Merge products :math:`L_i^T R_i` into their moments by a compiled kernel, without writing them to memory.

The kernel sums one tile of the product over a sample's rows in registers, and merges it at once into mean and centred
squares, as the Triton kernel does on a GPU. The best that torch can do is to form tiles of some samples and read them
again (:mod:`.tiles`).
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from gsnr_toolkit.gradients.kernels import native
from gsnr_toolkit.gradients.kernels.tiles import Workspace

MOST_ROWS = 384
"""Most rows of a sample. With more, strips of both factors outgrow the caches, and torch is faster: its cost lies more
and more in the product itself (``python -m benchmarks.products --tokens``)."""


def fits(left: Tensor, right: Tensor, mean: Tensor) -> bool:
    """Whether the kernel can merge these factors, and is faster than torch.

    Args:
        left: Output gradients, shape ``(b, T, O)``.
        right: Inputs, as in :func:`merge`.
        mean: The mean that they are merged into, shape ``(O, I)`` or anything that flattens to it.

    Returns:
        Whether :func:`merge` may be called with the factors in full precision. False on other devices, without the
        kernel, and for one row per sample, which has a closed form.

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
    """Merge a batch's gradients into their moments, in place; allowed only where :func:`fits` is true.

    Args:
        left: Output gradients, shape ``(b, T, O)``, any strides.
        right: Inputs, shape ``(b, T, I)``, any strides. T and I may each be several dimensions that no view can join.
        mean: Mean of the samples so far, shape ``(O, I)``; overwritten when ``seen`` is 0.
        m2: Their sum of centred squares, with the mean's shape and strides; None if only its total is wanted.
        seen: Number of samples so far.
        workspace: Scratch memory.
        places: Number of dimensions of ``right`` that make up T.

    Returns:
        Growth of the total of ``m2`` if ``m2`` is None.
    """
    call = native.function("merge_products", mean.dtype)
    assert call is not None
    left, right = left.resolve_neg(), right.resolve_neg()
    squares = None if m2 is None else m2.data_ptr()
    factors = (left.data_ptr(), _layout(left, 1), right.data_ptr(), _layout(right, places))
    given = (*factors, len(left), torch.get_num_threads(), mean.data_ptr(), squares, mean.stride(0), seen)
    # without memory, the kernel returns how many entries of scratch memory it needs
    memory = workspace.take((int(call(*given, None)),), mean)
    return call(*given, memory.data_ptr())


def _layout(factor: Tensor, places: int) -> ctypes.Array[ctypes.c_int64]:
    """Pack strides and sizes as ``Factor`` in ``merge_products.cpp`` reads them."""
    numbers = (factor.stride(0), places, factor.ndim - 1 - places, *factor.shape[1:], *factor.stride()[1:])
    return (ctypes.c_int64 * len(numbers))(*numbers)
