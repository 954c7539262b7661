r"""Critical optimization radius (COR) from gradients of common mini-batches (our reconstruction of Definition 1).

Let :math:`\Delta(\rho) = E_B[\tilde g_B(\rho) - g_B]`, the distance by which SAM's ascent step moves the mean gradient.
Then

.. math:: \mathrm{COR} = \sup\{\rho : |\Delta(\rho')| < |\mu| \text{ for all } 0 < \rho' \le \rho\}.

Up to this radius, SAM's step is certified to descend on average (Lemma 1). The condition is sufficient, not necessary:
descent can continue up to the alignment radius, the smallest one at which
:math:`E_B\langle\mu, \tilde g_B(\rho)\rangle \le 0`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gsnr_toolkit.estimators.uncertainty import bootstrap_weights, expanded_percentiles
from gsnr_toolkit.types import Floats

DRAWS = 2000
"""Bootstrap draws for the intervals of COR."""


@dataclass(frozen=True)
class DriftGrams:
    """Inner products between the gradients of K mini-batches at R radii, for G groups and the whole model.

    Attributes:
        radii: Increasing radii, shape ``(R,)``.
        mean: ``<g_j, g_k>``, shape ``(G + 1, K, K)``.
        drift: ``<d_j, d_k>`` with ``d = g~(rho) - g``, shape ``(R, G + 1, K, K)``.
        cross: ``<g_j, g~_k(rho)>``, shape ``(R, G + 1, K, K)``.
    """

    radii: Floats
    mean: Floats
    drift: Floats
    cross: Floats

    def merged(self, other: DriftGrams) -> DriftGrams:
        """Merge with other radii measured on the same mini-batches, in increasing order and without duplicates."""
        radii, first = np.unique(np.concatenate([self.radii, other.radii]), return_index=True)
        drift = np.concatenate([self.drift, other.drift])[first]
        cross = np.concatenate([self.cross, other.cross])[first]
        return DriftGrams(radii, self.mean, drift, cross)


@dataclass(frozen=True)
class GroupCOR:
    """COR of G groups and the whole model; arrays of shape ``(G + 1,)`` unless stated otherwise.

    Attributes:
        cor: Radius; NaN without signal, infinity if the drift stays below the signal at all measured radii.
        low: Lower confidence limit; 0 where resamples lose the signal.
        high: Upper confidence limit.
        alignment_radius: Smallest radius without descent on average; infinity if all measured radii descend.
        drift: Debiased ``|Delta(rho)|``, shape ``(R, G + 1)``; 0 where noise exceeds it.
        drift_low: Lower confidence limit of the drift.
        drift_high: Upper confidence limit of the drift.
        alignment: ``E_B <mu, g~_B(rho)>`` in units of ``|mu|^2``, shape ``(R, G + 1)``.
    """

    cor: Floats
    low: Floats
    high: Floats
    alignment_radius: Floats
    drift: Floats
    drift_low: Floats
    drift_high: Floats
    alignment: Floats


def debiased(gram: Float[np.ndarray, "*shape K K"], weights: Float[np.ndarray, "B K"]) -> Float[np.ndarray, "*shape B"]:
    r"""Estimate the squared norm (or inner product) of the mean without bias, over pairs of different mini-batches.

    .. math:: \frac{w^\top M w - \sum_k w_k^2 M_{kk}}{(\sum_k w_k)^2 - \sum_k w_k^2}

    With unit weights this is :math:`(|\sum_k v_k|^2 - \sum_k |v_k|^2) / (K (K-1))`. Integer weights describe a
    bootstrap draw; pairs of a mini-batch with its own copy are left out as well.

    Args:
        gram: Inner products, shape ``(..., K, K)``.
        weights: Weight of each mini-batch in each of B draws, shape ``(B, K)``.

    Returns:
        Shape ``(..., B)``.

    >>> float(debiased(np.array([[4.0, 1.0], [1.0, 9.0]]), np.ones((1, 2)))[0])
    1.0
    """
    diagonal = np.einsum("...kk->...k", gram)
    pairs = np.einsum("bk,...kj,bj->...b", weights, gram, weights, optimize=True)
    own = diagonal @ (weights**2).T
    return (pairs - own) / (weights.sum(1) ** 2 - (weights**2).sum(1))


def first_crossing(
    radii: Float[np.ndarray, "R"], drift_sq: Float[np.ndarray, "R *shape"], signal_sq: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """Find the smallest radius at which the drift reaches the signal.

    Between two radii, interpolation is linear in log-log (exact if the drift is a power of the radius). Below the
    smallest radius, and after a radius without measurable drift, the drift is taken as proportional to the radius. A
    drift that is not finite (NaN) counts as a crossing, and the result is the radius before it.

    Args:
        radii: Increasing, shape ``(R,)``.
        drift_sq: ``|Delta|^2``, shape ``(R, ...)``.
        signal_sq: ``|mu|^2``, shape ``(...)``.

    Returns:
        Radius, shape ``(...)``: 0 where the signal is not positive, infinity where the drift stays below it.

    >>> first_crossing(np.array([0.1, 1.0]), np.array([[0.01], [1.0]]), np.array([0.25])).round(6)
    array([0.5])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(signal_sq > 0, np.sqrt(np.maximum(drift_sq, 0) / signal_sq), np.inf)
        ratio = np.where(np.isnan(ratio), np.inf, ratio)
    reached = ratio >= 1
    index = np.argmax(reached, axis=0)  # the first True; 0 also where none is, which the last lines set to infinity
    upper = np.take_along_axis(ratio, index[None], axis=0)[0]
    lower = np.take_along_axis(ratio, np.maximum(index - 1, 0)[None], axis=0)[0]
    rho_high, rho_low = radii[index], radii[np.maximum(index - 1, 0)]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.log(lower) / (np.log(lower) - np.log(upper))
        between = rho_low * (rho_high / rho_low) ** share
        proportional = np.where(index == 0, rho_high / upper, np.maximum(rho_low, rho_high / upper))
        crossing = np.where((index == 0) | (lower == 0), proportional, between)
    crossing = np.where(reached.any(axis=0), crossing, np.inf)
    return np.where(signal_sq > 0, crossing, 0.0)


def first_misalignment(
    radii: Float[np.ndarray, "R"], alignment: Float[np.ndarray, "R *shape"]
) -> Float[np.ndarray, "*shape"]:
    """Find the smallest radius at which SAM's step stops descending on average.

    Args:
        radii: Increasing, shape ``(R,)``.
        alignment: ``E_B <mu, g~_B(rho)>``, shape ``(R, ...)``.

    Returns:
        Radius by linear interpolation, shape ``(...)``; infinity where the alignment stays positive. If it becomes
        NaN first, the radius before that.
    """
    alignment = np.where(np.isnan(alignment), -np.inf, alignment)
    lost = alignment <= 0
    index = np.argmax(lost, axis=0)
    after = np.take_along_axis(alignment, index[None], axis=0)[0]
    before = np.take_along_axis(alignment, np.maximum(index - 1, 0)[None], axis=0)[0]
    high, low = radii[index], radii[np.maximum(index - 1, 0)]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(index == 0, 1.0, before / (before - after))
    return np.where(lost.any(axis=0), low + (high - low) * share, np.inf)


def group_cor(
    grams: DriftGrams, signal_sq: Floats, *, confidence: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> GroupCOR:
    """Estimate COR and alignment radius of every group, with bootstrap intervals over mini-batches.

    The point estimate uses ``|mu|^2`` debiased over samples. Each bootstrap draw shifts it by the change of the
    mini-batch estimate in that draw. The true quantities satisfy
    ``cor <= alignment_radius``, so an estimated alignment radius below the estimated COR is raised to it.

    Args:
        grams: Inner products between mini-batches.
        signal_sq: Debiased ``|mu|^2``, shape ``(G + 1,)``.
        confidence: Nominal coverage.
        draws: Bootstrap draws.
        seed: Seed of the draws.

    Returns:
        Estimates for G groups and the whole model.
    """
    count = grams.mean.shape[-1]
    unit = np.ones((1, count))
    drift_sq = debiased(grams.drift, unit)[..., 0]
    alignment = debiased(grams.cross, unit)[..., 0]
    batch_signal = debiased(grams.mean, unit)[..., 0]
    weights = bootstrap_weights(count, draws, seed).astype(np.float64)
    drift_draws = debiased(grams.drift, weights)
    signal_draws = signal_sq[:, None] + debiased(grams.mean, weights) - batch_signal[:, None]
    cor_draws = first_crossing(grams.radii, drift_draws, signal_draws)
    low, high = expanded_percentiles(np.moveaxis(cor_draws, -1, 0), count, confidence)
    drift_low, drift_high = expanded_percentiles(np.moveaxis(drift_draws, -1, 0), count, confidence)
    cor = np.where(signal_sq > 0, first_crossing(grams.radii, drift_sq, signal_sq), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = alignment / np.where(batch_signal > 0, batch_signal, np.nan)
    return GroupCOR(
        cor=cor,
        low=np.where(signal_sq > 0, np.minimum(low, cor), low),
        high=np.where(signal_sq > 0, np.maximum(high, cor), high),
        alignment_radius=np.fmax(first_misalignment(grams.radii, alignment), cor),
        drift=np.sqrt(np.maximum(drift_sq, 0)),
        drift_low=np.sqrt(np.maximum(drift_low, 0)),
        drift_high=np.sqrt(np.maximum(drift_high, 0)),
        alignment=relative,
    )


@dataclass(frozen=True)
class Decomposition:
    r"""Factors of a layer's COR: :math:`\mathrm{COR} = \frac{r}{1+r} \cdot \frac{1}{m |\mu|}`, exactly.

    Attributes:
        signal_fraction: ``r / (1 + r)``, the share of signal in the gradient's second moment.
        misspecification: ``m = L / tr F`` with ``L = |mu| / COR`` and ``tr F = tr Sigma + |mu|^2``, the curvature along
            SAM's step relative to the Fisher information.
        grad_norm: ``|mu|``.
    """

    signal_fraction: Floats
    misspecification: Floats
    grad_norm: Floats


def decompose(
    cor: Float[np.ndarray, "*G"], signal_sq: Float[np.ndarray, "*G"], trace_covariance: Float[np.ndarray, "*G"]
) -> Decomposition:
    """Split COR into signal fraction, misspecification and gradient norm.

    Args:
        cor: Critical optimization radius.
        signal_sq: Debiased ``|mu|^2``.
        trace_covariance: ``tr Sigma``.

    Returns:
        The three factors; NaN where ``|mu|^2`` is not positive. The misspecification is NaN also where COR is not a
        positive finite number, because it is well-posed only there (Lemma 2).

    >>> parts = decompose(np.array([0.5]), np.array([4.0]), np.array([12.0]))
    >>> [float(value[0]) for value in (parts.signal_fraction, parts.misspecification, parts.grad_norm)]
    [0.25, 0.25, 2.0]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        signal = np.where(signal_sq > 0, signal_sq, np.nan)
        norm = np.sqrt(signal)
        fisher = trace_covariance + signal
        smoothness = np.where(np.isfinite(cor) & (cor > 0), norm / cor, np.nan)
        return Decomposition(*map(np.asarray, (signal / fisher, smoothness / fisher, norm)))
