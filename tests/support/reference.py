"""Literal reference implementations for comparison with fast code: plain loops in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def per_sample_gradients(
    model: nn.Module, batch: Any, loss_fn: Callable[[nn.Module, Any], Tensor], rows: Callable[[Any, int], Any]
) -> dict[str, Tensor]:
    """Call ``.backward()`` for one sample after the other, on a copy of the model."""
    import copy

    twin = copy.deepcopy(model)
    found: dict[str, list[Tensor]] = {name: [] for name, _ in twin.named_parameters()}
    count = len(batch[0]) if isinstance(batch, tuple) else len(next(iter(batch.values())))
    for i in range(count):
        twin.zero_grad(set_to_none=True)
        loss_fn(twin, rows(batch, i)).sum().backward()
        for name, param in twin.named_parameters():
            found[name].append(torch.zeros_like(param) if param.grad is None else param.grad.to_dense().clone())
    return {name: torch.stack(grads) for name, grads in found.items()}


def one_row(batch: Any, i: int) -> Any:
    """Return row i of a tuple or dict batch, as a batch of one."""
    if isinstance(batch, dict):
        return {key: value[i : i + 1] for key, value in batch.items()}
    return tuple(value[i : i + 1] for value in batch)


def group_gsnr(grads: np.ndarray, shard_size: int = 1) -> dict[str, float]:
    """Two-pass GSNR of samples (n, P); the signal is the mean inner product of samples of different shards."""
    n = len(grads)
    mean = grads.mean(0)
    trace = float(((grads - mean) ** 2).sum() / (n - 1))
    shard = np.arange(n) // shard_size
    different = shard[:, None] != shard[None, :]
    signal = float((grads @ grads.T)[different].mean())
    return {"plugin": float(mean @ mean) / trace, "gsnr": signal / trace, "trace": trace, "mean_sqnorm": signal}


def debiased_sqnorm(vectors: np.ndarray) -> float:
    """Unbiased squared norm of the mean of rows (K, P): average over all ordered pairs of different rows."""
    pairs = [vectors[j] @ vectors[k] for j in range(len(vectors)) for k in range(len(vectors)) if j != k]
    return float(np.mean(pairs))


def mcclandish_two_batch(grads: np.ndarray, small: int) -> tuple[float, float]:
    """|G|^2 and tr S by McCandlish et al.'s two batch sizes, averaged over batches before dividing."""
    n = len(grads)
    big_sq = float(grads.mean(0) @ grads.mean(0))
    parts = grads[: n // small * small].reshape(-1, small, grads.shape[1]).mean(1)
    small_sq = float((parts**2).sum(1).mean())
    signal = (n * big_sq - small * small_sq) / (n - small)
    trace = (small_sq - big_sq) / (1 / small - 1 / n)
    return signal, trace
