"""Engines that form every sample's gradient: a function yields chunks, which are added to moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gsnr_toolkit.gradients.task import AnyMoments, GradientChunk, GradientTask
from gsnr_toolkit.types import Batch


class StreamingEngine:
    """Turn a function that yields chunks of per-sample gradients into an engine.

    Args:
        name: Name in reports.
        stream: ``(task, batch, chunk_size=...)``; yields chunks.

    >>> from gsnr_toolkit.gradients.task import trainable_params
    >>> from gsnr_toolkit.gradients.loop import loop_gradients
    >>> from gsnr_toolkit.inputs.losses import inferred_loss
    >>> from gsnr_toolkit.moments.by_parameter import Moments
    >>> model = torch.nn.Linear(2, 1)
    >>> task = GradientTask(model, trainable_params(model), inferred_loss)
    >>> moments = Moments()
    >>> losses = StreamingEngine("loop", loop_gradients).accumulate(
    ...     task, (torch.ones(3, 2), torch.ones(3)), moments, chunk_size=1
    ... )
    >>> moments.count, tuple(losses.shape)
    (3, (3,))
    """

    def __init__(self, name: str, stream: Callable[..., Iterator[GradientChunk]]) -> None:
        self.name = name
        self._stream = stream

    def __call__(self, task: GradientTask, batch: Batch, *, chunk_size: int) -> Iterator[GradientChunk]:
        """Stream the per-sample gradients of a batch, as :class:`~gsnr_toolkit.gradients.task.Engine` says."""
        return self._stream(task, batch, chunk_size=chunk_size)

    def accumulate(self, task: GradientTask, batch: Batch, moments: AnyMoments, *, chunk_size: int) -> Tensor:
        """Add a batch's gradients to moments, as :class:`~gsnr_toolkit.gradients.task.Engine` says."""
        losses = []
        for chunk in self(task, batch, chunk_size=chunk_size):
            moments.update(chunk.grads)
            losses.append(chunk.losses)
        return torch.cat(losses)

    def shares(self, task: GradientTask) -> dict[str, list[str]]:
        """Return this engine's name with the names of all parameters."""
        return {self.name: list(task.params)}

    def notes(self) -> list[str]:
        """Return no notes: this engine serves every parameter in one way."""
        return []
