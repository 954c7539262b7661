"""Merge formed per-sample gradients into running moments.

Source: Chan, Golub & LeVeque (1979), as in :mod:`gsnr_toolkit.moments.by_parameter`. Torch needs one pass over memory
for each step: the mean, the squares about it, the two updates. On a CPU a compiled kernel (:mod:`.native`) does all
steps in one pass, while a few entries of all samples are in the cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from gsnr_toolkit.gradients.kernels import native


def merge_samples(samples: Tensor, mean: Tensor, m2: Tensor | None, seen: int) -> float:
    r"""Merge new samples into running moments, in place.

    With c new samples of mean :math:`\bar g_c` and :math:`\delta = \bar g_c - \bar g`:

    .. math:: M' = M + \sum_i (g_i - \bar g_c)^2 + \delta^2 \frac{n c}{n + c}, \qquad
        \bar g' = \bar g + \delta \frac{c}{n + c}

    Args:
        samples: Shape ``(c, *shape)``, c at least 1, of the mean's dtype; overwritten.
        mean: Mean of the n samples so far, ``shape``; overwritten when n is 0.
        m2: Their sum of centred squares, ``shape``; overwritten when n is 0. None if only its total is wanted.
        seen: Number n of samples so far.

    Returns:
        Growth of the total of ``m2`` over all entries if ``m2`` is None; otherwise meaningless.

    >>> mean, m2 = torch.tensor([2.0]), torch.tensor([2.0])  # of 1 and 3
    >>> _ = merge_samples(torch.tensor([[8.0]]), mean, m2, 2)
    >>> mean.item(), m2.item()
    (4.0, 26.0)
    >>> merge_samples(torch.tensor([[8.0]]), torch.tensor([2.0]), None, 2)
    24.0
    """
    merge = _kernel_for(mean)
    if merge is not None:
        return _call(merge, samples, mean, m2, seen)
    within, between = _deviations(samples, mean, seen)
    if m2 is None:
        # vector_norm needs a dimension, which the mean of a scalar parameter lacks
        return square_sum(within) + (0.0 if between is None else square_sum(between.unsqueeze(0)))
    if not seen:
        m2.zero_()
    for deviation in within.unbind():
        m2.addcmul_(deviation, deviation)
    if between is not None:
        m2.addcmul_(between, between)
    return 0.0


def square_sum(tensor: Tensor) -> float:
    """Sum the squares of all entries: within rows in the tensor's dtype, over rows in float64.

    One inner product over a million float32 entries is off by 4e-5, and always to the same side.

    Args:
        tensor: One dimension or more; the last one holds rows.

    Returns:
        The squared Frobenius norm.

    >>> round(square_sum(torch.full((2, 3), 2.0)), 4)
    24.0
    """
    return float(torch.linalg.vector_norm(tensor, dim=-1).double().square_().sum())


class _Deviations(NamedTuple):
    """Tensors whose squares ``m2`` grows by."""

    within: Tensor
    """Samples minus their own mean, shape ``(c, *shape)``."""
    between: Tensor | None
    """Scaled distance between both means, ``shape``; None if there were no samples before."""


def _deviations(samples: Tensor, mean: Tensor, seen: int) -> _Deviations:
    """Update the mean, and return the deviations whose squares are added to m2."""
    own, count = samples.mean(0), len(samples)
    within = samples.sub_(own)
    if not seen:
        mean.copy_(own)
        return _Deviations(within, None)
    moved = own.sub_(mean)
    mean.add_(moved, alpha=count / (seen + count))
    return _Deviations(within, moved.mul_(sqrt(seen * count / (seen + count))))


def _kernel_for(mean: Tensor) -> Callable[..., float] | None:
    """Return the compiled kernel if it can write to this mean: its rows must be contiguous."""
    rows_apart = mean.ndim == 2 and mean.stride(1) == 1 and mean.stride(0) >= mean.shape[1]
    if mean.device.type != "cpu" or not (rows_apart or mean.is_contiguous()):
        return None
    return native.function("merge_samples", mean.dtype)


def _call(merge: Callable[..., float], samples: Tensor, mean: Tensor, m2: Tensor | None, seen: int) -> float:
    samples = samples.contiguous().resolve_neg()
    whole = mean.is_contiguous()
    rows, columns = (1, mean.numel()) if whole else mean.shape
    shape = (ctypes.c_int64 * 3)(len(samples), rows, columns)
    squares = None if m2 is None else m2.data_ptr()
    stride = columns if whole else mean.stride(0)
    return merge(samples.data_ptr(), shape, torch.get_num_threads(), mean.data_ptr(), squares, stride, seen)
