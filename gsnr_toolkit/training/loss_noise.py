"""Means of a run's latest losses, and their standard errors from the noise of the losses themselves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

SHORT, LONG = 20, 100
"""Steps of the two windows over which losses are averaged."""

_REFRESH = 10
"""Steps between two estimates of the noise."""

_KEPT = 2 * LONG

_FEWEST = 8
_WINSOR = 8.0
_MAX_CORRELATION = 0.8
_MAD_TO_SD = 1.4826


class LossNoise:
    """The latest losses, with means of windows and their standard errors.

    The noise is read from differences of neighbouring losses, which a slow rise or fall does not touch. Differences of
    neighbours and of second neighbours give the noise's variance and correlation together (AR(1)).
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self._unit = math.inf
        self._count = 0

    def add(self, loss: float) -> None:
        """Add the finite loss of a step."""
        self.losses = [*self.losses[-_KEPT + 1 :], loss]
        if self._count % _REFRESH == 0 or len(self.losses) <= SHORT:
            self._unit = standard_error_of_one(np.array(self.losses))
        self._count += 1

    def mean(self, window: int, ago: int = 0) -> float:
        """Return the mean of ``window`` losses that ended ``ago`` steps ago; of those there are, if fewer."""
        end = len(self.losses) - ago
        part = self.losses[max(0, end - window) : max(0, end)]
        return math.fsum(part) / len(part) if part else math.nan

    def error(self, window: int) -> float:
        """Return the standard error of the mean of a window; larger while few losses are known."""
        known = len(self.losses)
        return self._unit * (1 + 12 / known) / math.sqrt(min(window, known)) if known else math.inf

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"losses": self.losses, "unit": self._unit, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self.losses = [float(loss) for loss in state["losses"]]
        self._unit, self._count = float(state["unit"]), int(state["count"])


def standard_error_of_one(losses: np.ndarray) -> float:
    r"""Return :math:`\sigma\sqrt{(1+\phi)/(1-\phi)}`, which over the square root of n is the error of a mean of n.

    For AR(1) noise, differences at lags 1 and 2 have the variances :math:`2\sigma^2(1-\phi)` and
    :math:`2\sigma^2(1-\phi^2)`; their ratio gives :math:`1+\phi`. Infinity for fewer than 8 losses.
    """
    if len(losses) < _FEWEST:
        return math.inf
    first, second = _mean_square(np.diff(losses)), _mean_square(losses[2:] - losses[:-2])
    if first == 0:
        return 0.0
    # The correlation is estimated too: its upper limit, or a few runs in a hundred would seem to leave by chance.
    phi = min(max(second / first - 1 + 1 / math.sqrt(len(losses)), 0.0), _MAX_CORRELATION)
    return math.sqrt(first / 2 * (1 + phi)) / (1 - phi)


def _mean_square(values: np.ndarray) -> float:
    """Return the mean square in which far outliers count as 8 robust standard deviations."""
    sizes = np.abs(values)
    limit = _WINSOR * _MAD_TO_SD * float(np.median(sizes))
    return float(np.mean(np.square(np.minimum(sizes, limit) if limit else sizes)))
