"""What SAM takes away for the length of an ascent, and gives back bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gsnr_toolkit.optim.statistics import restore_running_stats, save_running_stats
from gsnr_toolkit.types import Params


class Displacement:
    """Copies of weights and running statistics, and gradients that may be needed again.

    Truthy while weights are saved. Restoring writes the copies back: subtracting the perturbation would leave
    rounding errors that add up.
    """

    def __init__(self) -> None:
        self._weights: list[tuple[Tensor, Tensor]] = []
        self._stats: list[tuple[Tensor, Tensor]] = []
        self._grads: list[tuple[Tensor, Tensor]] = []

    def __bool__(self) -> bool:
        return bool(self._weights)

    def save(self, params: Params, model: nn.Module | None) -> None:
        """Copy the weights that are to be moved, and the running statistics of the model."""
        self._weights = [(param, param.detach().clone()) for param in params.values()]
        self._stats = [] if model is None else save_running_stats(model)

    @torch.no_grad()
    def restore(self) -> None:
        """Write back what :meth:`save` copied; once."""
        for param, value in self._weights:
            param.copy_(value)
        restore_running_stats(self._stats)
        self._weights, self._stats = [], []

    def set_gradients_aside(self, groups: list[dict[str, Any]]) -> None:
        """Remember the gradients, which are about to be cleared (no copy is made)."""
        params = [param for group in groups for param in group["params"]]
        self._grads = [(param, param.grad) for param in params if param.grad is not None]

    def bring_gradients_back(self, groups: list[dict[str, Any]]) -> None:
        """Put them back if no other gradient has come, and forget them."""
        if all(param.grad is None for group in groups for param in group["params"]):
            for param, grad in self._grads:
                param.grad = grad
        self._grads = []
