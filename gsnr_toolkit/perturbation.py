"""SAM's ascent step: the one definition of the perturbation radius rho.

Source: Foret et al., ICLR 2021 (arXiv 2010.01412). ``theta + rho * g / |g|``, with the norm taken over
all perturbed parameters together.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from gsnr_toolkit.types import Params


def global_norm(vector: Params) -> Tensor:
    """Euclidean norm over all tensors together, accumulated in float64.

    Returns:
        A scalar tensor.

    >>> global_norm({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}).item()
    5.0
    """
    return torch.stack([value.double().square().sum() for value in vector.values()]).sum().sqrt()


def ascent_direction(gradient: Params, names: Collection[str] | None = None) -> Params:
    """Unit vector along the gradient, restricted to the perturbed parameters.

    Args:
        gradient: Mini-batch gradient by name.
        names: Parameters to perturb; all when None.

    Returns:
        ``u = g / |g|`` over those names only. Zero where the gradient is exactly zero: there SAM's step
        is undefined and a perturbation of zero is what every implementation takes.
    """
    chosen = {name: value for name, value in gradient.items() if names is None or name in names}
    norm = global_norm(chosen)
    scale = torch.where(norm > 0, 1 / norm, torch.zeros_like(norm))
    return {name: value * scale.to(value.dtype) for name, value in chosen.items()}


def perturbed(params: Params, direction: Params, rho: float) -> Params:
    """Parameters after SAM's ascent step; the originals are not touched.

    Args:
        params: Parameters by name.
        direction: Unit ascent direction for some or all of them.
        rho: Radius, in units of the parameters.

    Returns:
        ``theta + rho u`` for names in ``direction``, the same tensors elsewhere.
    """
    return {name: value + rho * direction[name] if name in direction else value for name, value in params.items()}
