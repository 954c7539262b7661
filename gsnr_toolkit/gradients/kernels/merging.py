"""Samples merged into running moments.

Source: Chan, Golub & LeVeque (1979), as in :mod:`gsnr_toolkit.moments.by_parameter`. On a CPU a compiled kernel does it in one pass
over memory (:mod:`.native`): what torch needs a pass for each time (their mean, the squares about it, the two updates)
is done while a few entries of all samples lie in the cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor

from gsnr_toolkit.gradients.kernels import native


def merge_samples(samples: Tensor, mean: Tensor, m2: Tensor | None, seen: int) -> float:
    r"""Merge more samples into their moments, in place.

    With c new samples of mean :math:`\bar g_c` and :math:`\delta = \bar g_c - \bar g`:

    .. math:: M' = M + \sum_i (g_i - \bar g_c)^2 + \delta^2 \frac{n c}{n + c}, \qquad
        \bar g' = \bar g + \delta \frac{c}{n + c}

    Args:
        samples: Shape ``(c, *shape)``, c at least 1, of the mean's dtype; used up.
        mean: Mean of the samples so far, ``shape``; overwritten where n is 0.
        m2: Their sum of centred squares, ``shape``; likewise. None where only its sum over all entries is wanted.
        seen: How many they are, n.

    Returns:
        What that sum grows by, where ``m2`` is None.

    >>> mean, m2 = torch.tensor([2.0]), torch.tensor([2.0])  # of 1 and 3
    >>> _ = merge_samples(torch.tensor([[8.0]]), mean, m2, 2)
    >>> mean.item(), m2.item()
    (4.0, 26.0)
    >>> merge_samples(torch.tensor([[8.0]]), torch.tensor([2.0]), None, 2)
    24.0
    """
    merge = _kernel_for(mean)
    if merge is not None:
        return _merge(merge, samples, mean, m2, seen)
    grown = _deviations(samples, mean, seen)
    if m2 is None:
        return sum(square_sum(gaps) for gaps in grown)
    if not seen:
        m2.zero_()
    for gaps in grown:
        for gap in gaps.unbind():
            m2.addcmul_(gap, gap)
    return 0.0


def square_sum(tensor: Tensor) -> float:
    """Sum of squares, in float64 over rows.

    One inner product over a million float32 entries is off by 4e-5, and always to the same side.

    Args:
        tensor: One dimension or more; rows are along the last.

    Returns:
        The squared Frobenius norm.

    >>> round(square_sum(torch.full((2, 3), 2.0)), 4)
    24.0
    """
    return float(torch.linalg.vector_norm(tensor, dim=-1).double().square_().sum())


def _deviations(samples: Tensor, mean: Tensor, seen: int) -> list[Tensor]:
    """Update the mean, and give out what the squares of are what the sum of centred squares grows by."""
    own, count = samples.mean(0), len(samples)
    gaps = samples.sub_(own)
    if not seen:
        mean.copy_(own)
        return [gaps]
    moved = own.sub_(mean)
    mean.add_(moved, alpha=count / (seen + count))
    return [gaps, moved.mul_(sqrt(seen * count / (seen + count))).unsqueeze(0)]


def _kernel_for(mean: Tensor) -> Callable[..., float] | None:
    """The kernel, where it can write to such a mean: rows must be contiguous."""
    rows_apart = mean.ndim == 2 and mean.stride(1) == 1 and mean.stride(0) >= mean.shape[1]
    if mean.device.type != "cpu" or not (rows_apart or mean.is_contiguous()):
        return None
    return native.function("merge_samples", mean.dtype)


def _merge(merge: Callable[..., float], samples: Tensor, mean: Tensor, m2: Tensor | None, seen: int) -> float:
    samples = samples.contiguous().resolve_neg()
    whole = mean.is_contiguous()
    rows, columns = (1, mean.numel()) if whole else mean.shape
    shape = (ctypes.c_int64 * 3)(len(samples), rows, columns)
    squares = None if m2 is None else m2.data_ptr()
    stride = columns if whole else mean.stride(0)
    return merge(samples.data_ptr(), shape, torch.get_num_threads(), mean.data_ptr(), squares, stride, seen)
