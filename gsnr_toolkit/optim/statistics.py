"""Buffers that a forward pass in train mode moves, moved once per step although SAM runs the model twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class SavedBuffers:
    """The buffers of all modules in train mode: running statistics, spectral norms, codebooks, queues, counters.

    No list of names: whatever the second forward pass writes, in place or by assigning a new tensor, is undone.
    """

    def __init__(self, model: nn.Module) -> None:
        training = [module for module in model.modules() if module.training]
        self._tables = [(module, dict(module._buffers)) for module in training if module._buffers]
        held = {id(b): b for _, table in self._tables for b in table.values() if b is not None}
        self._values: list[tuple[Tensor, Tensor]] = [
            (buffer, buffer.detach().clone()) for buffer in held.values() if not _is_expanded(buffer)
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the same objects back under their names, with their values bit for bit."""
        for module, table in self._tables:
            module._buffers.update(table)
        for buffer, value in self._values:
            if buffer.shape != value.shape:
                buffer.data = value
            else:
                buffer.data.copy_(value)  # by .data: a graph that saved an unchanged buffer stays valid


def _is_expanded(buffer: Tensor) -> bool:
    """Whether several entries share their memory, so that nothing can write into the buffer in place."""
    if buffer.layout != torch.strided:
        return False
    return any(step == 0 and size > 1 for step, size in zip(buffer.stride(), buffer.shape, strict=True))


@contextmanager
def keep_running_stats(model: nn.Module) -> Iterator[None]:
    """Undo, on leaving the block, what forward passes inside did to the buffers of modules in train mode.

    Among them are running statistics, spectral norms, codebooks that follow a mean, queues and counters.

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
    saved = SavedBuffers(model)
    try:
        yield
    finally:
        saved.restore()
