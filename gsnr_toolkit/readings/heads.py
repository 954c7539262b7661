r"""Logistic heads on block features: their per-sample gradients and their drift, in closed form.

The gradient of sample i is :math:`g_i = (p_i - y_i)[z_i^l, 1]`, with :math:`p_i = 1/2` at zero weights. Each head is
a model of its own and is perturbed along its own gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from gsnr_toolkit.estimators.cor import DriftGrams
from gsnr_toolkit.estimators.evidence import DriftMeasurement
from gsnr_toolkit.readings.features import BlockFeatures
from gsnr_toolkit.setup.mini_batches import MAX_BATCHES
from gsnr_toolkit.types import Floats


def head_gradients(data: BlockFeatures, heads: Mapping[str, Floats]) -> dict[str, Tensor]:
    """Compute the per-sample gradients of every head.

    Args:
        data: Features and labels.
        heads: Block name to weights, shape ``(d + 1,)``.

    Returns:
        Block name to gradients, shape ``(n, d + 1)``, float64.
    """
    return {
        label: torch.from_numpy((_sigmoid(x @ heads[label]) - data.labels)[:, None] * x)
        for label, x in data.features.items()
    }


def head_losses(data: BlockFeatures, heads: Mapping[str, Floats]) -> Floats:
    """Compute the logistic loss of each sample, averaged over heads.

    Args:
        data: Features and labels.
        heads: Block name to weights.

    Returns:
        Shape ``(n,)``, nats.
    """
    per_head = [
        np.logaddexp(0, x @ heads[label]) - data.labels * (x @ heads[label]) for label, x in data.features.items()
    ]
    return np.mean(per_head, axis=0)


def zero_heads(data: BlockFeatures) -> dict[str, Floats]:
    """Make heads with zero weights, shape ``(d + 1,)`` per block: every probability is one half."""
    return {label: np.zeros(x.shape[1]) for label, x in data.features.items()}


def fitted_heads(data: BlockFeatures, ridge: float = 1e-3) -> dict[str, Floats]:
    """Fit a logistic regression on each block's features.

    Fit on samples other than those that gradients are measured on: at its own optimum a head's mean gradient is zero
    by construction.

    Args:
        data: Features and labels to fit on.
        ridge: Weight of the squared norm of the weights.

    Returns:
        Block name to weights, shape ``(d + 1,)``.
    """
    heads = {}
    for label, x in data.features.items():
        y = data.labels

        def objective(w: Floats, x: Floats = x, y: Floats = y) -> tuple[float, Floats]:
            logits = x @ w
            value = (np.logaddexp(0, logits) - y * logits).mean() + ridge / 2 * w @ w
            return float(value), x.T @ (_sigmoid(logits) - y) / len(y) + ridge * w

        heads[label] = minimize(objective, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    return heads


def head_drift(data: BlockFeatures, heads: Mapping[str, Floats], radii: Floats, batch_size: int) -> DriftMeasurement:
    """Compute the drift of every head's gradient under SAM's ascent step, in closed form for each mini-batch.

    Each head is perturbed along its own gradient. The last entry treats all heads as one model, perturbed along its
    joint gradient.

    Args:
        data: Features and labels.
        heads: Block name to weights.
        radii: Increasing radii, shape ``(R,)``.
        batch_size: Samples per mini-batch.

    Returns:
        The same inner products that :func:`gsnr_toolkit.readings.drift.measure_drift` computes for a model.
    """
    count = min(len(data.labels) // batch_size, MAX_BATCHES) * batch_size
    labels = data.labels[:count].reshape(-1, batch_size)
    batches = [
        _HeadBatches(x[:count].reshape(len(labels), batch_size, -1), labels, heads[label])
        for label, x in data.features.items()
    ]
    own_norms = [np.linalg.norm(batch.mean, axis=1) for batch in batches]
    joint_norm = np.sqrt(sum((batch.mean**2).sum(1) for batch in batches))
    drift, cross = [], []
    for rho in radii:
        own = [batch.drift(rho, norm) for batch, norm in zip(batches, own_norms, strict=True)]
        joint = [batch.drift(rho, joint_norm) for batch in batches]
        drift.append(np.stack([*(d @ d.T for d in own), sum(d @ d.T for d in joint)]))
        cross.append(np.stack([*_cross(batches, own), sum(_cross(batches, joint))]))
    grams = [batch.mean @ batch.mean.T for batch in batches]
    losses = head_losses(data, heads)[:count].reshape(-1, batch_size).mean(1)
    measured = DriftGrams(np.asarray(radii), np.stack([*grams, sum(grams)]), np.stack(drift), np.stack(cross))
    return DriftMeasurement(measured, losses, joint_norm)


class _HeadBatches:
    """K mini-batches of one head: features ``(K, b, d + 1)``, labels ``(K, b)``, mean gradients ``(K, d + 1)``."""

    def __init__(self, features: Floats, labels: Floats, weights: Floats) -> None:
        self._features, self._labels, self._weights = features, labels, weights
        self.mean = self._gradient(np.broadcast_to(weights, (len(features), features.shape[-1])))

    def drift(self, rho: float, norms: Floats) -> Floats:
        """Change of the mean gradients under an ascent of length rho along the mean gradient over ``norms``."""
        direction = np.divide(self.mean, norms[:, None], out=np.zeros_like(self.mean), where=norms[:, None] > 0)
        return self._gradient(self._weights + rho * direction) - self.mean

    def _gradient(self, weights: Floats) -> Floats:
        residual = _sigmoid(np.einsum("kbd,kd->kb", self._features, weights)) - self._labels
        return np.einsum("kb,kbd->kd", residual, self._features) / self._features.shape[1]


def _cross(batches: list[_HeadBatches], drifts: list[Floats]) -> list[Floats]:
    """Inner products of the gradients before the ascent with those after it."""
    return [batch.mean @ (batch.mean + drift).T for batch, drift in zip(batches, drifts, strict=True)]


def _sigmoid(logits: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(logits / 2))
