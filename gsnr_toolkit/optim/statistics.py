"""Running statistics of normalisation layers, updated once per step although SAM runs the model twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_NAMES = ("running_mean", "running_var", "num_batches_tracked")


def save_running_stats(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Copy the running statistics of the layers in train mode.

    They are found by name (running_mean, running_var, num_batches_tracked), which covers BatchNorm, SyncBatchNorm,
    InstanceNorm and similar layers of other libraries.

    Args:
        model: Any module.

    Returns:
        Pairs of a buffer and a copy of its value.
    """
    training = [module for module in model.modules() if module.training]
    buffers = [module._buffers.get(name) for module in training for name in _NAMES]
    return [(buffer, buffer.detach().clone()) for buffer in buffers if buffer is not None]


@torch.no_grad()
def restore_running_stats(saved: list[tuple[Tensor, Tensor]]) -> None:
    """Restore bit for bit what :func:`save_running_stats` returned."""
    for buffer, value in saved:
        buffer.copy_(value)


@contextmanager
def keep_running_stats(model: nn.Module) -> Iterator[None]:
    """Undo, on leaving the block, what forward passes inside did to running statistics.

    Layers still normalise by batch statistics inside. Run SAM's second forward and backward in the block: the running
    mean then moves by one momentum step per SAM step, from the batch at the unperturbed weights, and
    ``num_batches_tracked`` by one.

    Args:
        model: The model.

    Yields:
        Nothing.

    >>> layer = nn.BatchNorm1d(2)
    >>> with keep_running_stats(layer):
    ...     _ = layer(torch.randn(4, 2))
    >>> layer.running_mean, layer.num_batches_tracked
    (tensor([0., 0.]), tensor(0))
    """
    saved = save_running_stats(model)
    try:
        yield
    finally:
        restore_running_stats(saved)
