"""Check an engine on the first batch: two samples against one backward per sample."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gsnr_toolkit.errors import MixedSamplesError
from gsnr_toolkit.gradients.task import GradientTask, gradients_of
from gsnr_toolkit.inputs.batches import take_rows
from gsnr_toolkit.inputs.preserve import preserved_rng, random_state
from gsnr_toolkit.types import Batch, Params

TOLERANCE = {torch.float64: 1e-5, torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference, as a share of the parameter's largest entry: far above rounding, far below a wrong formula."""

_LOSS_TOLERANCE = {torch.float64: 1e-3, torch.float32: 3e-3}
_HALF_LOSS_TOLERANCE = 5e-2
"""Largest difference between a sample's loss alone and in the batch, as a share of the batch's largest loss."""

_ROUNDING = {torch.float64: 1000, torch.float32: 1000}
_HALF_ROUNDING = 1
"""Allowed error in units of rounding of the model's largest gradient. It matters where a gradient is nothing but
rounding, such as that of a key's bias, which softmax ignores. Half precision, whose units are coarse, is allowed few:
both sides of the comparison then share one forward."""


def reference_gradients(
    task: GradientTask, rows: Batch, losses: Tensor, leaves: Params, samples: int, precision: torch.dtype
) -> list[Params]:
    """Compute the gradients of the first samples, each by its own backward.

    Each sample is run alone. There are two exceptions: models that draw random numbers (dropout), and half precision,
    where batches of different sizes are rounded differently throughout. There, the graph of the batch is differentiated
    for that sample's loss instead.

    Args:
        task: Model, parameters and loss.
        rows: The samples.
        losses: Losses of a batch that begins with these samples, with their graph.
        leaves: The leaves of that graph.
        samples: Number of samples.
        precision: The coarsest type in that graph.

    Returns:
        Gradients by name for each sample.

    Raises:
        MixedSamplesError: If the loss of a sample changes when it runs alone, although no random numbers are drawn.
    """
    half = torch.finfo(precision).bits < 32
    found = []
    for i in range(samples):
        with preserved_rng():
            before = random_state()
            alone, loss = task.mean_gradient(take_rows(rows, i, i + 1))
            draws = random_state() != before
        allowed = _LOSS_TOLERANCE.get(precision, _HALF_LOSS_TOLERANCE) * largest_entry([losses.detach().nan_to_num()])
        if not draws and not torch.allclose(loss[0], losses[i].detach(), rtol=0, atol=allowed, equal_nan=True):
            raise MixedSamplesError(
                f"expected a loss per sample that depends on that sample alone, got {losses[i].item():.6g} for sample "
                f"{i} in a batch of {len(losses)} and {loss[0].item():.6g} alone; batch statistics, contrastive "
                "losses, losses divided by the batch's size and branches on the batch's values mix samples: rewrite "
                "the model or loss_fn so that row i needs sample i only"
            )
        if draws or half:
            with torch.enable_grad():
                alone = gradients_of(losses[i], leaves, retain=True)
        found.append(alone)
    return found


def largest_entry(gradients: Iterable[Tensor]) -> float:
    """Return the largest absolute entry, or 0 if there are no entries."""
    return max((float(grad.abs().max()) for grad in gradients if grad.numel()), default=0.0)


def failures(name: str, actual: Tensor, expected: list[Tensor], scale: float, precision: torch.dtype) -> dict[str, str]:
    """Compare the gradients of one parameter with the reference.

    Args:
        name: The parameter.
        actual: Gradients of some samples.
        expected: Their reference.
        scale: Largest entry of any parameter's gradient.
        precision: The coarsest type in their graph.

    Returns:
        Empty if they agree; otherwise the parameter's name and the difference.
    """
    gaps = [one.double() - other.double() for one, other in zip(actual, expected, strict=True)]
    gap, largest = largest_entry(gaps), largest_entry(expected)
    rounding = _ROUNDING.get(precision, _HALF_ROUNDING) * torch.finfo(precision).eps * scale
    share = TOLERANCE.get(precision, TOLERANCE[torch.bfloat16])
    # one large entry must not hide that all the others are wrong
    near = all(float(d.norm()) <= share * float(other.double().norm()) for d, other in zip(gaps, expected, strict=True))
    if gap <= rounding or (gap <= share * largest and near):
        return {}
    return {name: f"off by {gap / largest if largest else gap:.1g} from one backward per sample"}
