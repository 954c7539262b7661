"""SAM's ascent step: the definition of the perturbation radius rho that measuring and training share.

Sources: Foret et al., ICLR 2021 (arXiv 2010.01412): ``theta + rho * g / |g|``, with the norm taken over all perturbed
parameters together. Kwon et al., ICML 2021 (arXiv 2102.11600): ASAM, the same in coordinates scaled by
``T = |theta| + eta``: ``theta + rho * T^2 g / |T g|``, so that ``|T^-1 epsilon| = rho``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from gsnr_toolkit.types import Params


def global_norm(vector: Params) -> Tensor:
    """Compute the Euclidean norm over all tensors together, accumulated in float64.

    Returns:
        A scalar tensor, on the first tensor's device.

    >>> global_norm({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}).item()
    5.0
    """
    norms = [torch.linalg.vector_norm(as_real(value), dtype=torch.float64) for value in vector.values()]
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))


def as_real(value: Tensor) -> Tensor:
    """Return a complex tensor as its real and imaginary parts: a complex weight is two real ones."""
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def ascent_norm(gradient: Params, weights: Params | None = None, eta: float = 0.0) -> Tensor:
    """Compute the norm by which an ascent direction is divided.

    Args:
        gradient: Mini-batch gradient by name, of the perturbed parameters only.
        weights: The parameters, for ASAM's scaling; None for SAM.
        eta: ASAM's offset, added to each ``|theta|``.

    Returns:
        ``|g|``, or ``|T g|`` with ``T = |theta| + eta``, as a scalar tensor.

    >>> gradient, weights = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([-1.0, 0.0])}
    >>> ascent_norm(gradient).item(), ascent_norm(gradient, weights).item()
    (5.0, 3.0)
    """
    if weights is None:
        return global_norm(gradient)
    return global_norm({name: _scale(weights[name], eta) * value for name, value in gradient.items()})


def ascent_direction(
    gradient: Params, names: Collection[str] | None = None, *, weights: Params | None = None, eta: float = 0.0
) -> Params:
    """Compute the direction of SAM's ascent step, of length 1 in SAM's norm, for the perturbed parameters.

    Args:
        gradient: Mini-batch gradient by name.
        names: Parameters to perturb; all when None.
        weights: The parameters, for ASAM's scaling; None for SAM.
        eta: ASAM's offset, added to each ``|theta|``.

    Returns:
        ``u = g / |g|`` over those names only; ``T^2 g / |T g|`` for ASAM. Zero if the gradient is exactly zero: SAM's
        step is then undefined, and every implementation takes a zero perturbation.
    """
    chosen = {name: value for name, value in gradient.items() if names is None or name in names}
    inverse = _inverse(ascent_norm(chosen, weights, eta))
    return {
        name: _along(value, inverse, None if weights is None else _scale(weights[name], eta))
        for name, value in chosen.items()
    }


def perturbed(params: Params, direction: Params, rho: float) -> Params:
    """Return the parameters after SAM's ascent step, without changing the originals.

    Args:
        params: Parameters by name.
        direction: Unit ascent direction for some or all of them.
        rho: Radius, in units of the parameters.

    Returns:
        ``theta + rho u`` for names in ``direction``, the same tensors elsewhere.
    """
    return {name: value + rho * direction[name] if name in direction else value for name, value in params.items()}


@torch.no_grad()
def perturb_(
    params: Params,
    gradient: Params,
    norm: Tensor,
    rho: float | Mapping[str, float],
    *,
    adaptive: bool = False,
    eta: float = 0.0,
) -> None:
    """Take SAM's ascent step in place, one tensor at a time, so that no second copy of all parameters is needed.

    Args:
        params: Parameters to perturb, by name.
        gradient: Their mini-batch gradient.
        norm: :func:`ascent_norm` of that gradient.
        rho: Radius, or one per name.
        adaptive: Take ASAM's step.
        eta: ASAM's offset, added to each ``|theta|``.

    The result equals ``perturbed(params, ascent_direction(gradient, ...), rho)`` bit for bit.

    >>> weights = {"w": torch.zeros(2)}
    >>> perturb_(weights, {"w": torch.tensor([3.0, 4.0])}, torch.tensor(5.0), rho=0.5)
    >>> weights["w"]
    tensor([0.3000, 0.4000])
    """
    inverse = _inverse(norm)
    for name, value in params.items():
        radius = rho[name] if isinstance(rho, Mapping) else rho
        value.add_(radius * _along(gradient[name], inverse, _scale(value, eta) if adaptive else None))


def _inverse(norm: Tensor) -> Tensor:
    return torch.where(norm > 0, 1 / norm, torch.zeros_like(norm))


def _scale(weights: Tensor, eta: float) -> Tensor:
    return weights.abs() + eta


def _along(gradient: Tensor, inverse: Tensor, scale: Tensor | None) -> Tensor:
    if gradient.dtype == torch.float16:  # whose range ends at 65504: the inverse of a small norm would be infinite
        unit = (gradient.float() * inverse.float()).half()
    else:
        unit = gradient * inverse.to(gradient)
    return unit if scale is None else scale.square() * unit
