"""Parameters whose gradient is exactly zero for every sample: outside the loss's graph, or inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gsnr_toolkit.gradients.task import GradientTask
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.types import Batch

if TYPE_CHECKING:
    from gsnr_toolkit.gradients.task import AnyMoments


def silent_notes(task: GradientTask, moments: AnyMoments, rows: Batch) -> list[str]:
    """Say which parameters have no gradient, and whether the loss depends on them.

    Args:
        task: Model, parameters and loss.
        moments: Moments of the gradients of all samples.
        rows: A few samples, to look at the graph of their losses.

    Returns:
        A note on parameters outside the graph and one on those inside it, where there are any.
    """
    silent = [name for name in moments.mean if moments.is_zero(name)]
    if not silent:
        return []
    unused = _outside_graph(task, rows, silent)
    outside = [name for name in silent if name in unused]
    inside = [name for name in silent if name not in unused]
    reasons = (
        (outside, "the loss does not reach them"),
        (
            inside,
            "the loss reaches them, but its gradient vanishes at these weights (a factor of zero, such as LoRA's B at "
            "its start, or units that never fire): measure after some steps",
        ),
    )
    return [
        f"{len(names)} of {len(moments.mean)} parameters have a gradient of exactly zero for every sample, first "
        f"{names[0]!r}: {reason}; they count towards their group"
        for names, reason in reasons
        if names
    ]


def _outside_graph(task: GradientTask, rows: Batch, names: list[str]) -> set[str]:
    leaves = {name: value.detach().requires_grad_() for name, value in task.params.items()}

    def differentiate(losses: Tensor) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(losses.sum(), [leaves[name] for name in names], allow_unused=True)

    with preserved_rng(), torch.enable_grad():
        grads = task.run(leaves, rows, differentiate)
    return {name for name, grad in zip(names, grads, strict=True) if grad is None}
