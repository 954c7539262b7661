"""Run the forward of some samples, and check that its graph does not depend on random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gsnr_toolkit.errors import EngineError
from gsnr_toolkit.gradients.taps.graph import Graph
from gsnr_toolkit.gradients.task import GradientTask, check_reaches
from gsnr_toolkit.inputs.batches import batch_length, gather_rows, map_tensors, take_rows
from gsnr_toolkit.inputs.preserve import preserved_rng, random_state
from gsnr_toolkit.types import Batch, Params


@dataclass
class Pass:
    """One forward of ``count`` samples: their losses, the graph of these losses, and its leaves by parameter name."""

    losses: Tensor
    graph: Graph
    leaves: Params
    count: int


def run_forward(task: GradientTask, rows: Batch) -> Pass:
    """Run some samples with every measured parameter as a leaf of the graph."""
    leaves = {name: value.detach().requires_grad_() for name, value in task.params.items()}
    # the graph must not show how a batch was made (by a slice, by a gather)
    cut = map_tensors(rows, lambda tensor: tensor.detach().requires_grad_() if tensor.requires_grad else tensor)
    with torch.enable_grad():
        losses = task.losses(leaves, cut)
    check_reaches(losses)
    return Pass(losses, Graph(losses, leaves), leaves, batch_length(rows))


def refuse_random_graphs(task: GradientTask, rows: Batch, states: int, signature: int | None = None) -> None:
    """Refuse a model whose random numbers decide which operations run, such as one that skips layers at random.

    Such a model draws once for all samples that run together, so the samples are not independent. A model that draws no
    random numbers is run only once.

    Args:
        task: Model, parameters and loss.
        rows: Some samples.
        states: Number of random states to try.
        signature: Signature of a graph of the same rows at another random state, if known.

    Raises:
        EngineError: If the graph changes from one random state to the next.

    >>> from gsnr_toolkit.gradients.task import trainable_params
    >>> class Skipping(torch.nn.Linear):
    ...     def forward(self, x):
    ...         return super().forward(x) if torch.rand(()) < 0.5 else super().forward(x).tanh()
    >>> model = Skipping(2, 1)
    >>> task = GradientTask(model, trainable_params(model), lambda model, batch: model(batch)[:, 0])
    >>> refuse_random_graphs(task, torch.ones(3, 2), states=8)
    Traceback (most recent call last):
    gsnr_toolkit.errors.EngineError: expected the same operations whatever random numbers the model draws, ...
    """
    for seed in range(states):
        with preserved_rng(seed=seed):
            before = random_state()
            found = run_forward(task, rows).graph.signature
            if random_state() == before:
                return
        if signature is not None and found != signature:
            raise EngineError(
                "expected the same operations whatever random numbers the model draws, but its random numbers decide "
                "which operations run, once for all samples that run together (layers skipped at random: LayerDrop); "
                "pass engine='loop'"
            )
        signature = found


def row_chunks(batch: Batch, size: int) -> Iterator[tuple[int, Batch]]:
    """Cut a batch into chunks.

    Yields:
        Index of the first row, and up to ``size`` rows.
    """
    count = batch_length(batch)
    for start in range(0, count, size):
        yield start, take_rows(batch, start, min(start + size, count))


def cycled(rows: Batch, count: int) -> Batch:
    """Take ``count`` rows, starting again at the front if there are fewer."""
    length = batch_length(rows)
    return gather_rows(rows, [row % length for row in range(count)])


def restricted(task: GradientTask, names: Iterable[str]) -> GradientTask:
    """Return the same task for some of its parameters, with the others held fixed."""
    kept = {name: task.params[name] for name in names}
    held = {name: value for name, value in task.params.items() if name not in kept}
    return replace(task, params=kept, constants={**task.constants, **held})
