r"""Escape radius: past it, a SAM run is expected not to leave the plateau of the constant predictor (ours).

To first order SAM minimises :math:`L(\theta) + \rho\, E|g_B(\theta)|`. A trained state beats the constant
predictor, with loss :math:`L_0` and a small gradient norm :math:`G_0`, only while
:math:`L_t + \rho G_t < L_0 + \rho G_0`. Along a plain trajectory

.. math:: \rho_\mathrm{esc} = \max_t \frac{L_0 - L_t}{G_t - G_0}, \qquad
    G_0 = \min \{G_s : L_s \ge (1 - 0.015) L_0\}

where s runs over the measured steps on the plateau and t over those below it. The first step alone would not do for
:math:`G_0`: a head with random weights starts with a larger gradient than the constant predictor, to which the first
tens of steps lead. With :math:`G_0 = 0` it becomes a lower bound of it, :math:`\max_t (L_0 - L_t) / G_t`, for which
nothing needs to be measured on the plateau.

Candidates of our own, first-order only: they can fail where curvature matters.
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
        value: Radius; NaN where undefined, infinity where leaving the plateau pays at every radius.
        low: Lower confidence limit.
        high: Upper confidence limit.
        step: Step at which the maximum is reached; -1 where undefined.
        status: ``"ok"``, ``"unbounded"`` or ``"undefined"``.
        message: The status as a sentence.
        bound: The radius with a gradient of zero on the plateau: at most ``value``, and defined without a step there;
            NaN where no measured loss lies below the plateau's.
    """

    value: float
    low: float
    high: float
    step: int
    status: str
    message: str
    bound: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file.

        Returns:
            Field name to value.
        """
        return asdict(self)


_ON_PLATEAU = 0.985
"""A loss of at least this share of the plateau's is on it (0.01 nats below ln 2)."""


def _on_plateau(losses: Floats, plateau_loss: float) -> NDArray[np.bool_]:
    """Which steps are on the plateau, or not below it by twice the mean loss's standard error; shape ``(T,)``."""
    error = losses.std(1, ddof=1) / np.sqrt(losses.shape[1]) if losses.shape[1] > 1 else 0.0
    return losses.mean(1) + 2 * error >= _ON_PLATEAU * plateau_loss


def _radius(losses: Floats, norms: Floats, plateau_loss: float, on_plateau: NDArray[np.bool_]) -> Floats:
    """Radius for each step, shape ``(T, ...)``; -inf on the plateau, and where the loss is not below it."""
    gain, cost = plateau_loss - losses, norms - norms[on_plateau].min(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = np.where(gain > 0, np.where(cost > 0, gain / cost, np.inf), -np.inf)
    radius[on_plateau] = -np.inf
    return radius


def escape_bound(losses: Floats, norms: Floats, plateau_loss: float = float(np.log(2))) -> float:
    """Lower bound of the escape radius, with a gradient of zero on the plateau.

    Args:
        losses: Mean loss of each of K common batches at each step, nats, shape ``(T, K)``.
        norms: Norm of each batch's gradient at each step, shape ``(T, K)``.
        plateau_loss: Loss of the constant predictor.

    Returns:
        ``max_t (L_0 - L_t) / G_t`` over the steps below the plateau; NaN where there are none.

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
    """Escape radius of a plain run from its batch losses and batch gradient norms.

    Args:
        steps: Measured steps, shape ``(T,)``; at least one of them on the plateau.
        losses: Mean loss of each of K common batches at each step, nats, shape ``(T, K)``.
        norms: Norm of each batch's gradient at each step, shape ``(T, K)``.
        plateau_loss: Loss of the constant predictor: the entropy of the class frequencies.
        confidence: Nominal coverage of the bootstrap over batches.
        draws: Bootstrap draws.
        seed: Seed of the draws.

    Returns:
        Radius, interval, and a status that is a sentence.

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
