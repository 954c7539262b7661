r"""Escape radius: beyond it, a SAM run is expected not to leave the plateau of the constant predictor (our criterion).

To first order, SAM minimises :math:`L(\theta) + \rho\, E|g_B(\theta)|`. The constant predictor has loss :math:`L_0`
and a small gradient norm :math:`G_0`. A trained state beats it only while :math:`L_t + \rho G_t < L_0 + \rho G_0`.
Along a training run without SAM, this gives

.. math:: \rho_\mathrm{esc} = \max_t \frac{L_0 - L_t}{G_t - G_0}, \qquad
    G_0 = \min \{G_s : L_s \ge (1 - 0.015) L_0\}

where s runs over the measured steps on the plateau and t over those below it. The first step alone does not give
:math:`G_0`: a head with random weights starts with a larger gradient than the constant predictor, which the run reaches
after some tens of steps. Setting :math:`G_0 = 0` gives a lower bound, :math:`\max_t (L_0 - L_t) / G_t`, which needs no
measurement on the plateau.

Both are candidates of our own and of first order only: they can fail where curvature matters.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsnr_toolkit.estimators.uncertainty import bootstrap_weights, expanded_percentiles
from gsnr_toolkit.types import Floats


@dataclass(frozen=True)
class EscapeRadius:
    """The escape radius of one run.

    Attributes:
        value: Radius; NaN if undefined, infinity if leaving the plateau lowers SAM's objective at every radius.
        low: Lower confidence limit.
        high: Upper confidence limit.
        step: Step of the maximum; -1 if undefined.
        status: ``"ok"``, ``"unbounded"`` or ``"undefined"``.
        message: The status as a sentence.
        bound: The radius for a gradient of zero on the plateau: at most ``value``, and defined without a measured step
            there. NaN if no measured loss lies below that of the plateau.
    """

    value: float
    low: float
    high: float
    step: int
    status: str
    message: str
    bound: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return field name to value, for a file."""
        return asdict(self)


_ON_PLATEAU = 0.985
"""A loss of at least this share of the plateau's counts as on the plateau (0.01 nats below ln 2)."""


def _on_plateau(losses: Floats, plateau_loss: float) -> NDArray[np.bool_]:
    """Return which steps are on the plateau within twice the standard error of the mean loss, shape ``(T,)``."""
    error = losses.std(1, ddof=1) / np.sqrt(losses.shape[1]) if losses.shape[1] > 1 else 0.0
    return losses.mean(1) + 2 * error >= _ON_PLATEAU * plateau_loss


def _radius(losses: Floats, norms: Floats, plateau_loss: float, on_plateau: NDArray[np.bool_]) -> Floats:
    """Return the radius of each step, shape ``(T, ...)``; -inf on the plateau and where the loss is not below it."""
    gain, cost = plateau_loss - losses, norms - norms[on_plateau].min(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = np.where(gain > 0, np.where(cost > 0, gain / cost, np.inf), -np.inf)
    radius[on_plateau] = -np.inf
    return radius


def escape_bound(losses: Floats, norms: Floats, plateau_loss: float = float(np.log(2))) -> float:
    """Compute a lower bound of the escape radius, with a gradient of zero on the plateau.

    Args:
        losses: Mean loss of each of K common mini-batches at each step, nats, shape ``(T, K)``.
        norms: Gradient norm of each mini-batch at each step, shape ``(T, K)``.
        plateau_loss: Loss of the constant predictor.

    Returns:
        ``max_t (L_0 - L_t) / G_t`` over the steps below the plateau; NaN if there are none.

    >>> round(escape_bound(np.full((2, 4), [[0.7], [0.3]]), np.full((2, 4), [[1.0], [5.0]]), 0.7), 3)
    0.08
    """
    below = ~_on_plateau(losses, plateau_loss)
    gain, norm = plateau_loss - losses.mean(1)[below], norms.mean(1)[below]
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(gain / norm)) if below.any() else math.nan


def escape_radius(
    steps: list[int],
    losses: Floats,
    norms: Floats,
    *,
    plateau_loss: float = float(np.log(2)),
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> EscapeRadius:
    """Estimate the escape radius of a run without SAM from its mini-batch losses and gradient norms.

    Args:
        steps: Measured steps, shape ``(T,)``; at least one of them on the plateau.
        losses: Mean loss of each of K common mini-batches at each step, nats, shape ``(T, K)``.
        norms: Gradient norm of each mini-batch at each step, shape ``(T, K)``.
        plateau_loss: Loss of the constant predictor, which is the entropy of the class frequencies.
        confidence: Nominal coverage of the bootstrap over mini-batches.
        draws: Bootstrap draws.
        seed: Seed of the draws.

    Returns:
        Radius, interval, and a status with a sentence.

    >>> found = escape_radius([0, 10], np.full((2, 4), [[0.7], [0.3]]), np.full((2, 4), [[1.0], [5.0]]))
    >>> round(found.value, 3)
    0.098
    """
    found = _escape_radius(steps, losses, norms, plateau_loss, confidence, draws, seed)
    return replace(found, bound=escape_bound(losses, norms, plateau_loss))


def _escape_radius(
    steps: list[int], losses: Floats, norms: Floats, plateau_loss: float, confidence: float, draws: int, seed: int
) -> EscapeRadius:
    nothing = float("nan")
    if len(steps) < 2:
        message = "undefined: one measured step is no trajectory; ask for more steps"
        return EscapeRadius(nothing, nothing, nothing, -1, "undefined", message)
    on_plateau = _on_plateau(losses, plateau_loss)
    if not on_plateau.any():
        message = (
            f"undefined: no measured step is on the plateau of {plateau_loss:.3g} (the first has a loss of "
            f"{losses[0].mean():.3g}), so the plateau's gradient norm is not known; start from an untrained head"
        )
        return EscapeRadius(nothing, nothing, nothing, -1, "undefined", message)
    by_step = _radius(losses.mean(1), norms.mean(1), plateau_loss, on_plateau)
    best = int(np.argmax(by_step))
    count = losses.shape[1]
    weights = bootstrap_weights(count, draws, seed) / count
    samples = _radius(losses @ weights.T, norms @ weights.T, plateau_loss, on_plateau).max(0)
    low, high = expanded_percentiles(np.maximum(samples, 0.0), count, confidence)
    if by_step[best] == -np.inf:
        message = (
            f"undefined: the loss never fell below the plateau of {plateau_loss:.3f}; run more steps, raise the "
            "learning rate, or look whether the model can see the difference at all"
        )
        return EscapeRadius(nothing, nothing, float(high), -1, "undefined", message)
    value, step = float(by_step[best]), steps[best]
    if np.isinf(value):
        message = f"unbounded: at step {step} the loss is lower and the gradient no larger than on the plateau"
        return EscapeRadius(value, float(low), float(high), step, "unbounded", message)
    message = f"past rho = {value:.3g} this run is expected not to leave the plateau (best step {step})"
    return EscapeRadius(value, float(low), float(high), step, "ok", message)
