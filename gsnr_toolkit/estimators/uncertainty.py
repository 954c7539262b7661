"""Intervals: delete-one-shard jackknife, and bootstrap over mini-batches."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import special

from gsnr_toolkit.types import Floats


def jackknife_error(deleted: Float[np.ndarray, "S *shape"]) -> Float[np.ndarray, "*shape"]:
    r"""Compute the standard error from delete-one-block estimates.

    .. math:: \sqrt{\tfrac{S-1}{S} \sum_s (\hat\theta_{(s)} - \bar\theta)^2}

    Args:
        deleted: Estimates without block s, shape ``(S, ...)``.

    Returns:
        Shape ``(...)``; NaN for fewer than two blocks.

    >>> float(jackknife_error(np.array([1.0, 2.0, 3.0])).round(4))
    1.1547
    """
    count = deleted.shape[0]
    if count < 2:
        return np.full(deleted.shape[1:], np.nan)
    centred = deleted - deleted.mean(0)
    return np.asarray(np.sqrt((count - 1) / count * (centred**2).sum(0)))


def student_quantile(confidence: float, degrees: int) -> float:
    """Return the two-sided quantile of Student's t.

    Returns:
        Half-width of an interval with that confidence, in standard errors.

    >>> round(student_quantile(0.95, 15), 3)
    2.131
    """
    return float(special.stdtrit(degrees, 0.5 + confidence / 2))


def bootstrap_weights(count: int, draws: int, seed: int) -> NDArray[np.int64]:
    """Draw bootstrap samples of ``count`` mini-batches.

    A draw with fewer than two distinct mini-batches is repeated, because a debiased norm needs a pair.

    Returns:
        How often each mini-batch appears in each draw, shape ``(draws, count)``; every row sums to ``count``.
    """
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    while count > 1 and (bad := (weights > 0).sum(1) < 2).any():
        weights[bad] = rng.multinomial(count, np.full(count, 1 / count), size=int(bad.sum()))
    return weights


def expanded_percentiles(samples: Floats, count: int, confidence: float) -> tuple[Floats, Floats]:
    r"""Compute a bootstrap percentile interval, widened for small samples.

    The plain percentile interval is too short by a factor of about :math:`\sqrt{(K-1)/K}`, and has normal tails instead
    of Student's. Source: Hesterberg (2015), expanded percentiles:
    :math:`\alpha'/2 = \Phi(-\sqrt{K/(K-1)}\, t_{1-\alpha/2, K-1})`.

    Args:
        samples: Bootstrap replicates, shape ``(draws, ...)``; infinities are allowed.
        count: Number K of resampled units.
        confidence: Nominal coverage.

    Returns:
        Lower and upper limit, shape ``(...)``.
    """
    tail = float(special.ndtr(-np.sqrt(count / (count - 1)) * student_quantile(confidence, count - 1)))
    # method="nearest" returns samples, so that infinite ones never enter an interpolation (inf - inf is NaN)
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0, method="nearest")
    return np.asarray(low), np.asarray(high)
