"""One backward per sample: the reference for every other engine, and on a CPU a fast one for large models."""

from __future__ import annotations

from collections.abc import Iterator

from gsnr_toolkit.gradients.task import GradientChunk, GradientTask
from gsnr_toolkit.inputs.batches import batch_length, take_rows
from gsnr_toolkit.types import Batch


def loop_gradients(task: GradientTask, batch: Batch, *, chunk_size: int = 1) -> Iterator[GradientChunk]:
    """Differentiate the losses one sample at a time.

    Args:
        task: Model, parameters and loss.
        batch: A batch of N samples.
        chunk_size: Ignored (part of the common signature).

    Yields:
        N chunks of one sample each; gradients have shape ``(1, *parameter.shape)``.

    >>> import torch
    >>> from gsnr_toolkit.gradients.task import trainable_params
    >>> from gsnr_toolkit.inputs.losses import inferred_loss
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> task = GradientTask(model, trainable_params(model), inferred_loss)
    >>> chunks = list(loop_gradients(task, (torch.ones(3, 2), torch.ones(3))))
    >>> len(chunks), tuple(chunks[0].grads["weight"].shape)
    (3, (1, 1, 2))
    """
    del chunk_size
    for row in range(batch_length(batch)):
        grads, losses = task.mean_gradient(take_rows(batch, row, row + 1))
        yield GradientChunk(row, losses, {name: grad.unsqueeze(0) for name, grad in grads.items()})
