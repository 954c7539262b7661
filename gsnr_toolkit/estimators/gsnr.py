r"""Gradient signal-to-noise ratio (GSNR), per parameter and per group.

Per parameter (Liu et al., ICLR 2020): :math:`r_j = \mu_j^2 / \Sigma_{jj}`. Per group, the number that reports lead
with: :math:`r = |\mu|^2 / \mathrm{tr}\,\Sigma`, the inverse of the simple noise scale of McCandlish et al. (2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gsnr_toolkit.estimators.uncertainty import jackknife_error, student_quantile
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.moments.shards import ShardSummary, sums_of_squares
from gsnr_toolkit.moments.sketches import RowPlan
from gsnr_toolkit.types import Floats

_SUMMARY = ("gsnr_param_median", "gsnr_param_p95", "gsnr_param_above_floor", "zero_variance")

MOST_ENTRIES = 2**24
"""Most entries for the distribution of the per-parameter GSNR; its quantiles are then accurate to 0.01 %."""


@dataclass(frozen=True)
class GroupGSNR:
    """GSNR of G groups, and of the whole model as the last entry; every array has shape ``(G + 1,)``.

    Attributes:
        count: Number n of samples.
        gsnr: Bias-corrected ratio; may be negative; NaN where the variance is zero.
        low: Lower confidence limit.
        high: Upper confidence limit.
        plugin: Uncorrected ``|gbar|^2 / tr S``; pure noise gives 1/n (less in a class-balanced draw).
        trace_covariance: ``tr S``, unbiased, in squared units of the gradient.
        mean_sqnorm: Debiased ``|mu|^2``; may be negative.
    """

    count: int
    gsnr: Floats
    low: Floats
    high: Floats
    plugin: Floats
    trace_covariance: Floats
    mean_sqnorm: Floats


def parameter_gsnr(mean: Float[Tensor, "*shape"], m2: Float[Tensor, "*shape"], count: int) -> Float[Tensor, "*shape"]:
    r"""Estimate the GSNR of each entry, corrected for bias.

    .. math:: \hat r_j = \frac{n-3}{n-1} \frac{\bar g_j^2}{S_{jj}} - \frac1n

    Unbiased for Gaussian gradients: the plug-in ratio :math:`\bar g_j^2 / S_{jj}` has expectation
    :math:`\frac{n-1}{n-3}(r_j + 1/n)`, so pure noise gives about 1/n without the correction.

    Args:
        mean: Mean gradient, any shape.
        m2: Sum of centred squares, same shape.
        count: Number n of samples, more than 3.

    Returns:
        Same shape; NaN where the variance is zero.

    Raises:
        ValueError: For n of 3 or less.

    >>> parameter_gsnr(torch.tensor([1.0]), torch.tensor([7.0]), 8)
    tensor([0.5893])
    """
    if count <= 3:
        raise ValueError(
            f"expected more than 3 samples for the bias correction (n-3)/(n-1), got {count}; give more samples"
        )
    variance = m2 / (count - 1)
    ratio = (count - 3) / (count - 1) * mean.square() / variance - 1 / count
    return torch.where(variance > 0, ratio, torch.full_like(ratio, float("nan")))


def summarise_parameters(moments: Moments | GroupMoments, names: tuple[str, ...]) -> dict[str, float]:
    """Summarise the distribution of the per-parameter GSNR over one group.

    Args:
        moments: Moments of all parameters.
        names: The parameters of the group.

    Returns:
        ``gsnr_param_median``, ``gsnr_param_p95``, ``gsnr_param_above_floor`` (share of entries whose corrected GSNR
        exceeds 1/n) and ``zero_variance`` (share of entries with zero variance, which the other three leave out). All
        are NaN if moments were kept by group only. Of more than :data:`MOST_ENTRIES` entries, every k-th is used.

        For pure Gaussian noise, ``n gbar^2 / S`` follows F(1, n - 1), so the share above 1/n is about 0.16 (0.157 at
        n = 256).
    """
    if isinstance(moments, GroupMoments):
        return dict.fromkeys(_SUMMARY, float("nan"))
    total = sum(moments.mean[name].numel() for name in names)
    every = max(1, -(-total // MOST_ENTRIES))
    parts = [
        parameter_gsnr(moments.mean[name].flatten()[::every], moments.m2[name].flatten()[::every], moments.count)
        for name in names
    ]
    values = torch.cat(parts).cpu().numpy()
    defined = values[~np.isnan(values)]
    if defined.size == 0:
        return {**dict.fromkeys(_SUMMARY, float("nan")), "zero_variance": 1.0}
    median, p95 = np.quantile(defined, [0.5, 0.95])
    return {
        "gsnr_param_median": float(median),
        "gsnr_param_p95": float(p95),
        "gsnr_param_above_floor": float((defined > 1 / moments.count).mean()),
        "zero_variance": 1 - defined.size / values.size,
    }


@dataclass(frozen=True)
class GroupTotals:
    """Exact sums over all samples, for G groups and the whole model.

    Attributes:
        count: Number n of samples.
        sqnorm: ``|gbar|^2``, shape ``(G + 1,)``.
        trace: ``tr S``, unbiased (n - 1), shape ``(G + 1,)``.
    """

    count: int
    sqnorm: Floats
    trace: Floats


def group_totals(moments: Moments | GroupMoments, plan: RowPlan) -> GroupTotals:
    """Sum moments over the entries of each group, in float64.

    Args:
        moments: Moments of all parameters.
        plan: Assignment of parameters to groups.

    Returns:
        Totals of every group and the whole model.
    """
    sqnorm = sums_of_squares(plan, moments.mean)
    m2 = np.array([moments.spread(plan.members[group]) for group in plan.group_names])
    sqnorm, m2 = np.append(sqnorm, sqnorm.sum()), np.append(m2, m2.sum())
    return GroupTotals(moments.count, sqnorm, m2 / max(moments.count - 1, 1))


def group_gsnr(totals: GroupTotals, shards: ShardSummary, confidence: float = 0.95) -> GroupGSNR:
    r"""Estimate the GSNR of each group, with a jackknife interval.

    .. math:: \hat r = \frac{\widehat{|\mu|^2}}{\mathrm{tr}\,S}, \qquad
        \widehat{|\mu|^2} = \frac{|\sum_s n_s \bar g_s|^2 - \sum_s n_s^2 |\bar g_s|^2}{n^2 - \sum_s n_s^2}

    The numerator averages inner products between different shards (consecutive blocks of samples). With one sample
    per shard, it equals :math:`|\bar g|^2 - \mathrm{tr}\,S / n`. Shards keep the numerator unbiased even if samples
    are drawn class-balanced, in turn. The mean of such a draw varies less than the mean of independent draws, so
    subtracting :math:`\mathrm{tr}\,S / n` would overshoot, and give a value below zero if the signal is weak.
    Numerator and denominator are each unbiased; the bias of the ratio is O(1/n).

    The interval is a delete-one-shard jackknife of :math:`\log(\hat r + v)`, transformed back, where v is the noise
    in the plug-in ratio (1/n for independent samples). The plug-in ratio is positive, so its logarithm always exists.
    A lower limit below zero means that noise alone explains the gradient. (An interval from the logarithm of the
    corrected ratio itself covers as little as 73 % near the noise floor.)

    Args:
        totals: Exact sums over all samples, for the point estimates.
        shards: Sums over S shards of the same samples, for the correction and the interval.
        confidence: Nominal coverage of the interval.

    Returns:
        Estimates for G groups and the whole model. NaN where the variance is zero; NaN limits for fewer than three
        shards.
    """
    counts, total = shards.counts, totals.count
    own = (counts[:, None] ** 2 * shards.sqnorm).sum(0)  # inner products of each shard with itself, left out below
    signal = (total**2 * totals.sqnorm - own) / (total**2 - (counts**2).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        trace = np.where(totals.trace > 0, totals.trace, np.nan)
        plugin = totals.sqnorm / trace
        floor = np.maximum(plugin - signal / trace, np.finfo(np.float64).tiny)
        deleted = [_without(shards, s) for s in range(len(counts))] if len(counts) > 2 else []
        # without one shard, ratio + noise can fall to zero or below; the bound keeps the logarithm finite
        logs = [np.log(np.maximum(ratio + floor, 1e-3 * floor)) for ratio in deleted]
    error = jackknife_error(np.array(logs)) if logs else np.full_like(plugin, np.nan)
    reach = student_quantile(confidence, max(len(logs) - 1, 1)) * error
    return GroupGSNR(
        count=total,
        gsnr=signal / trace,
        low=plugin * np.exp(-reach) - floor,
        high=plugin * np.exp(np.minimum(reach, 500.0)) - floor,  # exp overflows beyond 709
        plugin=plugin,
        trace_covariance=trace,
        mean_sqnorm=np.where(np.isnan(trace), np.nan, signal),
    )


def _without(shards: ShardSummary, left_out: int) -> Floats:
    """Return the GSNR without one shard, shape ``(G + 1,)``."""
    keep = np.delete(np.arange(len(shards.counts)), left_out)
    counts, gram = shards.counts[keep], shards.gram[:, keep][:, :, keep]
    total = counts.sum()
    squares = np.einsum("gss->gs", gram)
    summed = np.einsum("gst,s,t->g", gram, counts, counts)
    signal = (summed - squares @ counts**2) / (total**2 - (counts**2).sum())
    between = squares @ counts - summed / total
    return signal / ((shards.within[keep].sum(0) + np.maximum(between, 0)) / (total - 1))


def samples_needed(count: int, gsnr: float, low: float, high: float) -> float:
    """Estimate how many samples would separate the signal from the noise.

    If noise dominates, the half-width of the interval falls like 1/n. The estimate is the n at which the lower limit of
    the measured GSNR would reach zero. If the measured GSNR is not positive, its upper limit is used instead, and the
    result is a lower bound.

    Returns:
        Number of samples, at least twice ``count``; infinity if even the upper limit is not positive.
    """
    signal = gsnr if gsnr > 0 else high
    if not signal > 0:
        return float("inf")
    return float(max(2 * count, np.ceil(count * (gsnr - low) / signal)))
