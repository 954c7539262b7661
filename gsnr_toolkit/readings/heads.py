r"""Logistic heads on block features: their per-sample gradients and their drift, in closed form.

For head weights zero, :math:`g_i = (p_i - y_i)[z_i^l, 1]` with :math:`p_i = 1/2`. Each head is a model of
its own: its perturbation is along its own gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from gsnr_toolkit.estimators.cor import DriftGrams
from gsnr_toolkit.readings.drift import DriftMeasurement
from gsnr_toolkit.readings.features import BlockFeatures
from gsnr_toolkit.setup.mini_batches import MAX_BATCHES
from gsnr_toolkit.types import Floats


def head_gradients(data: BlockFeatures, heads: Mapping[str, Floats]) -> dict[str, Tensor]:
    """Per-sample gradients of every head.

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
    """Logistic loss of each sample, averaged over heads.

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
    """Heads with all weights zero: every probability is one half.

    Returns:
        Block name to zeros, shape ``(d + 1,)``.
    """
    return {label: np.zeros(x.shape[1]) for label, x in data.features.items()}


def fitted_heads(data: BlockFeatures, ridge: float = 1e-3) -> dict[str, Floats]:
    """Logistic regression on each block's features.

    Fit on other samples than the gradients are measured on: at its own optimum the mean gradient is
    zero by construction.

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
    """Drift of every head's gradient under SAM's ascent step, in closed form per batch.

    The last entry treats all heads as one model under one joint perturbation.

    Args:
        data: Features and labels.
        heads: Block name to weights.
        radii: Increasing radii, shape ``(R,)``.
        batch_size: Samples per mini-batch.

    Returns:
        The same inner products that :func:`gsnr_toolkit.readings.drift.measure_drift` takes of a model.
    """
    count = min(len(data.labels) // batch_size, MAX_BATCHES) * batch_size
    labels = data.labels[:count].reshape(-1, batch_size)
    batches = {k: x[:count].reshape(len(labels), batch_size, -1) for k, x in data.features.items()}
    mean = {k: _batch_gradient(x, labels, np.broadcast_to(heads[k], (len(x), x.shape[-1]))) for k, x in batches.items()}
    joint_norm = np.sqrt(sum((g**2).sum(1) for g in mean.values()))
    drift, cross = [], []
    for rho in radii:
        own, joint = {}, {}
        for k, x in batches.items():
            own_norm = np.linalg.norm(mean[k], axis=1, keepdims=True)
            own[k] = _batch_gradient(x, labels, heads[k] + rho * _unit(mean[k], own_norm)) - mean[k]
            joint[k] = _batch_gradient(x, labels, heads[k] + rho * _unit(mean[k], joint_norm[:, None])) - mean[k]
        drift.append(np.stack([*(d @ d.T for d in own.values()), sum(d @ d.T for d in joint.values())]))
        inner = [*(mean[k] @ (mean[k] + own[k]).T for k in own), sum(mean[k] @ (mean[k] + joint[k]).T for k in own)]
        cross.append(np.stack(inner))
    grams = [g @ g.T for g in mean.values()]
    losses = head_losses(data, heads)[:count].reshape(-1, batch_size).mean(1)
    measured = DriftGrams(np.asarray(radii), np.stack([*grams, sum(grams)]), np.stack(drift), np.stack(cross))
    return DriftMeasurement(measured, losses, joint_norm)


def _batch_gradient(x: Floats, labels: Floats, weights: Floats) -> Floats:
    residual = _sigmoid(np.einsum("kbd,kd->kb", x, weights)) - labels
    return np.einsum("kb,kbd->kd", residual, x) / x.shape[1]


def _unit(vector: Floats, norm: Floats) -> Floats:
    return np.divide(vector, norm, out=np.zeros_like(vector), where=norm > 0)


def _sigmoid(logits: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(logits / 2))
