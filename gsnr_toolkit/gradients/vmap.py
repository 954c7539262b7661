"""Vectorised per-sample gradients by ``torch.func``: exact wherever they work; hold chunk x P numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from gsnr_toolkit.errors import EngineError
from gsnr_toolkit.gradients.task import GradientChunk, GradientTask
from gsnr_toolkit.inputs.batches import batch_length, replace_rows, take_rows, tensors_of
from gsnr_toolkit.inputs.preserve import preserved_rng, same_buffer_objects
from gsnr_toolkit.inputs.withheld import WithheldField
from gsnr_toolkit.types import Batch, Params


def vmap_gradients(task: GradientTask, batch: Batch, *, chunk_size: int) -> Iterator[GradientChunk]:
    """Differentiate up to ``chunk_size`` samples at a time with ``vmap(grad(functional_call))``.

    Args:
        task: Model, parameters and loss.
        batch: A batch of N samples.
        chunk_size: Most samples whose gradients are in memory at once.

    Yields:
        Chunks of up to ``chunk_size`` samples; gradients have shape ``(c, *parameter.shape)``.

    Raises:
        EngineError: If the model has an operation that cannot be vectorised, or reads a field with one entry per
            sample that is no tensor; the loop engine can run it.
        RuntimeError: If the model itself fails, even on one sample, or memory runs out.
        TypeError: The same.

    >>> from gsnr_toolkit.gradients.task import trainable_params
    >>> from gsnr_toolkit.inputs.losses import inferred_loss
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> task = GradientTask(model, trainable_params(model), inferred_loss)
    >>> chunks = list(vmap_gradients(task, (torch.ones(3, 2), torch.ones(3)), chunk_size=2))
    >>> [tuple(chunk.grads["weight"].shape) for chunk in chunks]
    [(2, 1, 2), (1, 1, 2)]
    """

    def sample_loss(params: Params, tensors: list[Tensor]) -> Tensor:
        # vmap takes tensors only: put them back into the batch's tuples and mappings
        rows = iter(tensors)
        one = replace_rows(batch, lambda _: next(rows).unsqueeze(0), WithheldField)
        return task.losses(params, one)[0]

    vectorised = vmap(grad_and_value(sample_loss), in_dims=(None, 0), randomness="different")
    for start in range(0, batch_length(batch), chunk_size):
        rows = take_rows(batch, start, min(start + chunk_size, batch_length(batch)))
        try:
            with warnings.catch_warnings(), same_buffer_objects(task.model):
                # attention has no batching rule: torch falls back to a loop inside and warns each time
                warnings.filterwarnings("ignore", message="There is a performance drop")
                grads, losses = vectorised(task.params, tensors_of(rows))
        except EngineError:  # a withheld field was read
            raise
        except (RuntimeError, TypeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            _insist_that_the_model_runs(task, rows)
            raise EngineError(
                "expected operations that vmap can batch, but the vmap engine cannot vectorise this model "
                f"({str(error).splitlines()[0][:200]}); pass engine='loop'"
            ) from error
        yield GradientChunk(start, losses.detach(), {name: grad.detach() for name, grad in grads.items()})


def _insist_that_the_model_runs(task: GradientTask, rows: Batch) -> None:
    """Raise the model's own error if the model fails without vmap too."""
    with preserved_rng():
        task.mean_gradient(take_rows(rows, 0, 1))


def choose_vmap_chunk(task: GradientTask, memory: int = 2**28) -> int:
    """Return how many samples' formed gradients fit into the given memory, from 1 to 32."""
    return int(max(1, min(32, memory // max(1, vmap_bytes_per_sample(task)))))


def vmap_bytes_per_sample(task: GradientTask) -> int:
    """Estimate the bytes of one more sample in a chunk without its activations: two copies of its gradient."""
    return 2 * sum(param.numel() * param.element_size() for param in task.params.values())
