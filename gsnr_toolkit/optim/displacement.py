"""What SAM takes away for the length of an ascent, and gives back bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gsnr_toolkit.optim.statistics import restore_running_stats, save_running_stats
from gsnr_toolkit.types import Params


class Displacement:
    """Copies of weights and running statistics, and what becomes of the gradients of an ascent that moved nothing.

    Truthy while weights are saved. Restoring writes the copies back: subtracting the perturbation would leave
    rounding errors that add up.
    """

    def __init__(self) -> None:
        self._weights: list[tuple[Tensor, Tensor]] = []
        self._stats: list[tuple[Tensor, Tensor]] = []
        self._hooks: list[RemovableHandle] = []

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

    def let_gradients_be_replaced(self, groups: list[dict[str, Any]]) -> None:
        """Leave gradients where they are, to be stepped with, but let a second backward replace them.

        It would add to them otherwise. Whatever else is put in their place meanwhile is added to as ever.
        """
        for group in groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._hooks.append(param.register_hook(_Replace(param)))

    def keep_gradients(self) -> None:
        """From here on, backwards add to the gradients that are there."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


class _Replace:
    """Runs just before a gradient is added to a parameter's."""

    def __init__(self, param: Tensor) -> None:
        self._param, self._old = param, param.grad

    def __call__(self, _: Tensor) -> None:
        if self._old is not None and self._param.grad is self._old:
            self._param.grad = None
        self._old = None
