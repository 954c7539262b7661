"""Weights and buffers saved for the duration of an ascent, and restored bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gsnr_toolkit.optim.caches import drop_weight_copies
from gsnr_toolkit.optim.parameters import ascent_set
from gsnr_toolkit.optim.perturbation import ascent_norm, perturb_
from gsnr_toolkit.optim.statistics import SavedBuffers
from gsnr_toolkit.optim.watch import GradientWatch


class Displacement:
    """Moves weights along SAM's ascent and back; truthy while they are moved. The only place that does.

    Restoring copies the saved weights back, because subtracting the perturbation would leave rounding errors that
    accumulate. An ascent that moves nothing needs no second backward; see :meth:`let_gradients_be_replaced`.
    """

    def __init__(self) -> None:
        self._weights: list[tuple[Tensor, Tensor]] = []
        self._buffers: SavedBuffers | None = None
        self._hooks: list[RemovableHandle] = []
        self.watch = GradientWatch()

    def __bool__(self) -> bool:
        return bool(self._weights)

    @staticmethod
    @torch.no_grad()
    def length(
        groups: list[dict[str, Any]], radii: tuple[float, ...], chosen: set[Tensor], *, eta: float | None
    ) -> float:
        """Return the norm of the ascent gradient that :meth:`ascend` would divide by; 0 if there is no gradient."""
        params, gradient, _ = ascent_set(groups, radii, chosen)
        return float(ascent_norm(gradient, params if eta is not None else None, eta or 0.0)) if params else 0.0

    @torch.no_grad()
    def ascend(
        self,
        groups: list[dict[str, Any]],
        radii: tuple[float, ...],
        chosen: set[Tensor],
        *,
        eta: float | None,
        model: nn.Module | None,
    ) -> float:
        """Move the chosen parameters along their gradients, unless these have no direction.

        Args:
            groups: An optimizer's parameter groups.
            radii: The radius of each group.
            chosen: Parameters that may be moved.
            eta: ASAM's ``adaptive_eta``; None takes SAM's step.
            model: Its buffers are saved too.

        Returns:
            The norm of the ascent gradient. Nothing was moved if it is 0 or not finite.
        """
        params, gradient, rho = ascent_set(groups, radii, chosen)
        adaptive = eta is not None
        norm = ascent_norm(gradient, params if adaptive else None, eta or 0.0) if params else torch.zeros(())
        if 0 < float(norm) < float("inf"):
            self._weights = [(param, param.detach().clone()) for param in params.values()]
            self._buffers = None if model is None else SavedBuffers(model)
            self.watch.ascended(params)
            perturb_(params, gradient, norm, rho, adaptive=adaptive, eta=eta or 0.0)
            drop_weight_copies()
        return float(norm)

    @torch.no_grad()
    def restore(self) -> None:
        """Copy back the weights and buffers from before the ascent, if they are not back already."""
        weights, buffers = self._weights, self._buffers
        self._weights, self._buffers = [], None
        for param, value in weights:
            param.copy_(value)
        if weights:
            drop_weight_copies()
        if buffers is not None:
            buffers.restore()

    def let_gradients_be_replaced(self, groups: list[dict[str, Any]]) -> None:
        """Keep gradients, so that the step can use them, but let a second backward replace them instead of adding.

        A gradient that the user assigns in the meantime is added to as usual.
        """
        for group in groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._hooks.append(param.register_hook(_Replace(param)))

    def keep_gradients(self) -> None:
        """Let backwards add to existing gradients again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


@torch.no_grad()
def plain_norm(groups: list[dict[str, Any]], chosen: set[Tensor], eta: float | None) -> float:
    """Compute the norm that an ascent would divide by, for a step without one.

    Groups whose own radius is 0 count only if it is so in all of them, because the schedule alone may have made it 0.

    Args:
        groups: An optimizer's parameter groups.
        chosen: Parameters that may be moved.
        eta: ASAM's ``adaptive_eta``; None for SAM.

    Returns:
        The norm; 0 without any gradient.
    """
    radii = tuple(float(group["rho"]) for group in groups)
    params, gradient, _ = ascent_set(groups, radii if any(radii) else (1.0,) * len(groups), chosen)
    return float(ascent_norm(gradient, None if eta is None else params, eta or 0.0)) if params else 0.0


class _Replace:
    """Hook that runs just before a backward adds to a parameter's gradient."""

    def __init__(self, param: Tensor) -> None:
        self._param, self._old = param, param.grad

    def __call__(self, _: Tensor) -> None:
        if self._old is not None and self._param.grad is self._old:
            self._param.grad = None
        self._old = None
