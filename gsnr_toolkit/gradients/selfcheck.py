"""A check of an engine on the first batch: two samples against one backward per sample."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gsnr_toolkit.batches import take_rows
from gsnr_toolkit.gradients.functional import GradientTask
from gsnr_toolkit.preserve import preserved_rng
from gsnr_toolkit.types import Batch, Params

TOLERANCE = {torch.float64: 1e-5, torch.float32: 5e-3}
"""Largest difference, as a share of the parameter's largest entry: far above rounding, far below a wrong formula."""

_HALF_TOLERANCE = 0.2

_ROUNDING = 1000
"""Units of rounding of the model's largest gradient that may be missing where a gradient is nothing but rounding, as a
key's bias is, which softmax does not feel."""


def reference_gradients(task: GradientTask, rows: Batch, losses: Tensor, leaves: Params, samples: int) -> list[Params]:
    """Gradients of the first samples, each by a backward of its own.

    The sample is run alone; where that gives another loss than in the batch (active dropout), the batch's own graph
    is differentiated for that sample's loss instead.

    Args:
        task: Model, parameters and loss.
        rows: The samples.
        losses: Losses of a batch that begins with them, with its graph.
        leaves: The leaves of that graph.
        samples: How many.

    Returns:
        For each sample, gradients by name.
    """
    found = []
    for i in range(samples):
        with preserved_rng():
            alone, loss = task.mean_gradient(take_rows(rows, i, i + 1))
        if not torch.allclose(loss[0], losses[i].detach(), rtol=1e-3, atol=1e-5):
            with torch.enable_grad():  # picking one loss belongs to the graph
                one = losses[i]
            grads = torch.autograd.grad(one, list(leaves.values()), retain_graph=True, allow_unused=True)
            pairs = zip(leaves.items(), grads, strict=True)
            alone = {name: torch.zeros_like(leaf) if grad is None else grad for (name, leaf), grad in pairs}
        found.append(alone)
    return found


def largest_entry(gradients: Iterable[Tensor]) -> float:
    """Largest absolute entry.

    Returns:
        0 where there is none.
    """
    return max((float(grad.abs().max()) for grad in gradients if grad.numel()), default=0.0)


def failures(name: str, actual: Tensor, expected: list[Tensor], scale: float) -> dict[str, str]:
    """Compare one parameter's gradients.

    Args:
        name: The parameter.
        actual: Gradients of some samples.
        expected: What they should be.
        scale: Largest entry of any parameter's gradient.

    Returns:
        Nothing, or the parameter's name and what is wrong.
    """
    dtype = expected[0].dtype
    gap = largest_entry(one.to(other) - other for one, other in zip(actual, expected, strict=True))
    largest = largest_entry(expected)
    if gap <= max(TOLERANCE.get(dtype, _HALF_TOLERANCE) * largest, _ROUNDING * torch.finfo(dtype).eps * scale):
        return {}
    return {name: f"off by {gap / largest if largest else gap:.1g} from one backward per sample"}
