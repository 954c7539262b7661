"""The largest Hessian eigenvalue of the loss, by Lanczos on gradient differences."""

from __future__ import annotations

import numpy as np
import torch

from gsnr_toolkit.estimators.curvature import largest_curvature
from gsnr_toolkit.gradients.batch_gradient import BatchGradient
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.optim.perturbation import perturbed
from gsnr_toolkit.types import Batch, Floats, Params


def largest_hessian_eigenvalue(gradient: BatchGradient, batches: list[Batch], seed: int) -> float:
    """Compute the largest absolute eigenvalue of the Hessian of the mean loss over all mini-batches.

    Args:
        gradient: Computes mini-batch gradients.
        batches: Mini-batches of one size.
        seed: Seed of Lanczos' start and of the model's random numbers.

    Returns:
        ``lambda_max(|H|)``; NaN if Lanczos did not converge.
    """
    params = gradient.task.params
    sizes = [param.numel() for param in params.values()]

    def shaped(flat: Floats) -> Params:
        pieces = torch.from_numpy(flat).split(sizes)
        return {n: v.view(p.shape).to(p) for (n, p), v in zip(params.items(), pieces, strict=True)}

    def gradient_at(displacement: Floats) -> Floats:
        moved = perturbed(params, shaped(displacement), 1.0)
        total = np.zeros(sum(sizes))
        for index, batch in enumerate(batches):
            with preserved_rng(seed=seed + index):
                found, _ = gradient(batch, moved)
            total += torch.cat([value.flatten() for value in found.values()]).double().cpu().numpy()
        return total / len(batches)

    longest = max(batch_length(batch) for batch in batches)
    return gradient.until_it_fits(lambda: largest_curvature(gradient_at, sum(sizes), seed=seed), longest)
