"""Mean gradients of mini-batches in bounded memory: a few samples at a time, and fewer if the device runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.task import GradientTask
from gsnr_toolkit.inputs.batches import batch_length, take_rows
from gsnr_toolkit.types import Batch, Params

_Result = TypeVar("_Result")


class BatchGradient:
    """The gradient of a mini-batch's mean loss, summed over chunks of its samples.

    Args:
        task: Model, parameters and loss.
        chunk_size: Number of samples that run at once; the whole batch when None.

    Attributes:
        task: As above.
        chunk_size: As above; it only decreases.

    >>> from gsnr_toolkit.inputs.losses import resolve_loss
    >>> from gsnr_toolkit.gradients.task import trainable_params
    >>> model, batch = torch.nn.Linear(1, 1), (torch.ones(3, 1), torch.tensor([0, 1, 1]))
    >>> task = GradientTask(model, trainable_params(model), resolve_loss(None))
    >>> (one, _), (other, losses) = BatchGradient(task, 2)(batch), BatchGradient(task)(batch)
    >>> torch.allclose(one["weight"], other["weight"]), tuple(losses.shape)
    (True, (3,))
    """

    def __init__(self, task: GradientTask, chunk_size: int | None = None) -> None:
        self.task, self.chunk_size = task, chunk_size

    def __call__(self, batch: Batch, params: Params | None = None) -> tuple[Params, Tensor]:
        """Compute the gradient, at the task's parameters or at others.

        Args:
            batch: A batch of N samples.
            params: Parameters to evaluate at; the task's own when None.

        Returns:
            ``(gradient by name, losses (N,))``; equal to :meth:`GradientTask.mean_gradient` up to rounding.
        """
        length = batch_length(batch)
        step = self.chunk_size or length
        if step >= length:
            return self.task.mean_gradient(batch, params)
        total: Params = {}
        losses = []
        for start in range(0, length, step):
            stop = min(start + step, length)
            gradient, some = self.task.mean_gradient(take_rows(batch, start, stop), params)
            losses.append(some)
            for name, value in gradient.items():
                share = value.mul_((stop - start) / length)
                total[name] = total[name].add_(share) if name in total else share
        return total, torch.cat(losses)

    def until_it_fits(self, work: Callable[[], _Result], length: int) -> _Result:
        """Call a function, and repeat it with half the samples at once whenever the device runs out of memory.

        Args:
            work: The function; each call must start from scratch.
            length: Number of samples of its longest batch.

        Returns:
            The function's result.

        Raises:
            ProbeError: If even one sample at a time does not fit.
        """
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                self.chunk_size = fewer_samples(self.chunk_size or length, length, error)


def fewer_samples(chunk_size: int, length: int, error: torch.OutOfMemoryError) -> int:
    """Halve the number of samples that run at once, after a device ran out of memory.

    Args:
        chunk_size: Most samples that ran at once.
        length: Number of samples of the batch.
        error: The device's error.

    Returns:
        A number of samples, at least 1.

    Raises:
        ProbeError: If one sample ran at a time already.
    """
    if chunk_size == 1:
        raise ProbeError(
            "expected memory for one sample's forward and backward, but the device ran out; use detail='group' (half "
            "the memory for moments), a smaller input, or another device"
        ) from error
    torch.cuda.empty_cache()
    return max(1, min(chunk_size, length) // 2)
