"""Running statistics of normalisation layers, counted once although SAM runs the model twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_NAMES = ("running_mean", "running_var", "num_batches_tracked")


def save_running_stats(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Copy the running statistics of the layers that are in train mode.

    Any module with buffers called running_mean, running_var or num_batches_tracked counts: BatchNorm, SyncBatchNorm,
    InstanceNorm and relatives of other libraries.

    Args:
        model: Any module.

    Returns:
        Buffers, each with a copy of its value.
    """
    training = [module for module in model.modules() if module.training]
    buffers = [module._buffers.get(name) for module in training for name in _NAMES]
    return [(buffer, buffer.detach().clone()) for buffer in buffers if buffer is not None]


@torch.no_grad()
def restore_running_stats(saved: list[tuple[Tensor, Tensor]]) -> None:
    """Write back what :func:`save_running_stats` copied, bit for bit.

    Args:
        saved: Its result.
    """
    for buffer, value in saved:
        buffer.copy_(value)


@contextmanager
def keep_running_stats(model: nn.Module) -> Iterator[None]:
    """Let forward passes inside leave running statistics as they are; batch statistics normalise as ever.

    Run SAM's second forward and backward inside, so that the running mean moves by one momentum step, from the
    batch at the unperturbed weights, and ``num_batches_tracked`` by one. The backward belongs inside too.

    Args:
        model: The model that is run inside.

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
