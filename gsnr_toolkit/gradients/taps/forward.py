"""One forward of some samples and the graph behind it, and whether that graph is the same at every random state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gsnr_toolkit.errors import EngineError
from gsnr_toolkit.gradients.taps.graph import Graph
from gsnr_toolkit.gradients.task import GradientTask, check_reaches
from gsnr_toolkit.inputs.batches import batch_length, map_tensors, take_rows
from gsnr_toolkit.inputs.preserve import preserved_rng, random_state
from gsnr_toolkit.types import Batch, Params


@dataclass
class Pass:
    """One forward of some samples: their losses, the graph behind them, and its leaves."""

    losses: Tensor
    graph: Graph
    leaves: Params
    count: int


def run_forward(task: GradientTask, rows: Batch) -> Pass:
    """Run some samples with every measured parameter as a leaf of the graph.

    Returns:
        The pass.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in task.params.items()}
    # where a batch came from (a slice, a gather) must not show in the graph
    cut = map_tensors(rows, lambda tensor: tensor.detach().requires_grad_() if tensor.requires_grad else tensor)
    with torch.enable_grad():
        losses = task.losses(leaves, cut)
    check_reaches(losses)
    return Pass(losses, Graph(losses, leaves), leaves, batch_length(rows))


def refuse_random_graphs(task: GradientTask, rows: Batch, states: int, signature: int | None = None) -> None:
    """Refuse a model whose random numbers decide which operations run, such as one that skips layers at random.

    Such a model draws once for all samples that run together, so that they are no independent samples. A model that
    draws no random numbers is run once.

    Args:
        task: Model, parameters and loss.
        rows: Some samples.
        states: Random states to try.
        signature: Signature of a graph of the same rows at another random state, if there was one.

    Raises:
        EngineError: If the graph at one random state is another than at the one before.

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
                "expected the same operations whatever random numbers the model draws, but they decide which ones run, "
                "once for all samples that run together (layers skipped at random: LayerDrop); pass engine='loop'"
            )
        signature = found


def row_chunks(batch: Batch, size: int) -> Iterator[tuple[int, Batch]]:
    """Cut a batch.

    Yields:
        First row, and up to ``size`` rows.
    """
    count = batch_length(batch)
    for start in range(0, count, size):
        yield start, take_rows(batch, start, min(start + size, count))


def cycled(rows: Batch, count: int) -> Batch:
    """Take ``count`` rows, from the front again where there are fewer.

    Returns:
        A batch of that many rows.
    """
    index = torch.arange(count) % batch_length(rows)
    return map_tensors(rows, lambda tensor: tensor[index.to(tensor.device)])


def restricted(task: GradientTask, names: Iterable[str]) -> GradientTask:
    """The same task for some of its parameters, the others held fixed.

    Returns:
        A task.
    """
    kept = {name: task.params[name] for name in names}
    held = {name: value for name, value in task.params.items() if name not in kept}
    return replace(task, params=kept, constants={**task.constants, **held})
