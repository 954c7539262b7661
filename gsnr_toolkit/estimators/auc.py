"""AUC: how well scores separate forged images from real ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve (AUC) with its 95 % interval.

    Attributes:
        value: Probability that a forged image scores above a real one; ties count one half.
        low: Lower end of the interval.
        high: Upper end of the interval.
        count: Number of images, real plus forged.
    """

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.count})"


def auc(real: NDArray[np.floating], fake: NDArray[np.floating]) -> Auc:
    """Compute the AUC of independent real and forged scores, with the interval of DeLong et al. (Biometrics 1988).

    Let ``v_i`` be the share of real scores below forged score i, and ``w_j`` the share of forged scores above real
    score j; ties count one half. The AUC is the mean of ``v``, and its variance is ``var(v) / m + var(w) / n``.

    Args:
        real: Scores of real images, (n,).
        fake: Scores of forged images, (m,).

    Returns:
        The AUC with a normal interval, clipped to [0, 1].

    >>> auc(np.array([0.0, 1.0]), np.array([2.0, 3.0])).value
    1.0
    """
    n, m = len(real), len(fake)
    joint = rankdata(np.concatenate([real, fake]))
    above_real = (joint[n:] - rankdata(fake)) / n
    above_fake = 1 - (joint[:n] - rankdata(real)) / m
    value = float(above_real.mean())
    spread = float(np.sqrt(above_real.var(ddof=1) / m + above_fake.var(ddof=1) / n))
    margin = NORMAL_95 * spread
    return Auc(value, max(0.0, value - margin), min(1.0, value + margin), n + m)
