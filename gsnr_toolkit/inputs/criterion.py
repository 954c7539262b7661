"""Watch the losses of torch that a forward pass calls, and find what a constant prediction would have cost."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gsnr_toolkit.types import Floats

Link = Callable[[Tensor], Tensor]

_BY_CLASS = {F.cross_entropy, F.nll_loss, F.multi_margin_loss}
"""Losses whose outputs have one more dimension than class indices have."""


def _log_softmax(constant: Tensor) -> Tensor:
    return constant.log_softmax(1 if constant.ndim > 1 else 0)


def _itself(constant: Tensor) -> Tensor:
    return constant


_LINKS: dict[Any, Link] = {
    F.cross_entropy: _itself,
    F.nll_loss: _log_softmax,
    F.kl_div: _log_softmax,
    F.binary_cross_entropy: torch.sigmoid,
    F.binary_cross_entropy_with_logits: _itself,
    F.mse_loss: _itself,
    F.l1_loss: _itself,
    F.smooth_l1_loss: _itself,
    F.huber_loss: _itself,
    F.poisson_nll_loss: _itself,
    F.soft_margin_loss: _itself,
    F.multi_margin_loss: _itself,
    F.multilabel_soft_margin_loss: _itself,
}
"""Losses of outputs and targets that are known, and what turns any numbers into outputs that they accept."""


@dataclass(frozen=True)
class Call:
    """One call of a loss.

    Attributes:
        function: The loss, of ``torch.nn.functional``.
        width: Entries of a constant prediction; None for a single number.
        targets: The targets, on the CPU.
        shape: Shape of the outputs.
        options: Its other arguments, without the reduction.
        value: Mean of what it returned.
    """

    function: Any
    width: int | None
    targets: Tensor
    shape: tuple[int, ...]
    options: dict[str, Any]
    value: float

    @property
    def kind(self) -> tuple[Any, ...]:
        """Calls of one kind are parts of one loss: micro-batches, or steps."""
        options = sorted((name, repr(value)) for name, value in self.options.items())
        return (self.function, self.width, len(self.shape), tuple(options))

    @property
    def rows(self) -> int:
        """Number of samples."""
        return self.shape[0] if self.shape else 1

    def to_state(self) -> dict[str, Any]:
        """Return the call as plain values and tensors."""
        return {**vars(self), "function": self.function.__name__, "shape": list(self.shape)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Call:
        """Return the call that :meth:`to_state` described."""
        return cls(**{**state, "function": getattr(F, state["function"]), "shape": tuple(state["shape"])})

    def loss_of(self, constant: Tensor) -> Tensor:
        """Compute the mean loss of a constant prediction, in float64."""
        outputs = _LINKS[self.function](_spread(constant, self.shape))
        options = {name: _double(value) for name, value in self.options.items()}
        return self.function(outputs, _double(self.targets), reduction="mean", **options)


def _spread(constant: Tensor, shape: tuple[int, ...]) -> Tensor:
    if constant.ndim and len(shape) > 1:
        return constant.view(-1, *[1] * (len(shape) - 2)).expand(shape)
    return constant.expand(shape)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


class CriterionWatch(TorchFunctionMode):
    """Inside the block, note every call of a known loss whose result can be trained on.

    The calls are passed on unchanged. Losses are found wherever they are called: in a module such as
    ``nn.CrossEntropyLoss``, inside a model, or in a compiled function.

    >>> with CriterionWatch() as watch:
    ...     _ = F.mse_loss(torch.zeros(3, requires_grad=True), torch.tensor([1.0, 2.0, 3.0]))
    >>> round(best_constant(watch.calls), 6)
    0.666667
    """

    def __init__(self, *, trained: bool = True) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._trained = trained

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass a call on, and note it if it is a known loss."""
        del types
        result = func(*args, **(kwargs or {}))
        try:
            known = func in _LINKS
        except TypeError:  # what is called cannot be hashed
            known = False
        if known and (result.requires_grad or not self._trained):
            self._note(func, args, kwargs or {}, result)
        return result

    def _note(self, function: Any, args: Any, kwargs: dict[str, Any], result: Tensor) -> None:
        given = inspect.signature(function).bind(*args, **kwargs)
        given.apply_defaults()
        named = dict(given.arguments)
        outputs, targets, how = (named.pop(name) for name in ("input", "target", "reduction"))
        if how == "batchmean" or any(named.pop(name, None) is not None for name in ("reduce", "size_average")):
            return
        options = {name: value.detach().cpu() if isinstance(value, Tensor) else value for name, value in named.items()}
        entry = 1 if outputs.ndim > 1 else 0
        width = outputs.shape[entry] if outputs.ndim > 1 or function in _BY_CLASS else None
        value = float(result.detach().double().mean()) / (targets.numel() if how == "sum" else 1)
        self.calls.append(Call(function, width, targets.detach().cpu(), tuple(outputs.shape), options, value))


def best_constant(calls: list[Call]) -> float:
    """Return the smallest mean loss that a constant prediction has on all calls of one kind together.

    Args:
        calls: Calls of one kind; each counts by its number of samples.

    Returns:
        The loss, found by L-BFGS in float64; NaN if there is none.
    """
    total = sum(call.rows for call in calls)
    width = calls[0].width

    def loss_and_slope(values: Floats) -> tuple[float, Floats]:
        constant = torch.tensor(values if width is not None else values[0], dtype=torch.float64, requires_grad=True)
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            loss = torch.stack([call.loss_of(constant) * (call.rows / total) for call in calls]).sum()
            (slope,) = torch.autograd.grad(loss, constant)
        return float(loss.detach()), slope.reshape(-1).numpy()

    options = {"maxiter": 500, "ftol": 1e-13, "gtol": 1e-9}
    found = [
        minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", options=options)
        for start in _starts(calls, width or 1)
    ]
    losses = [float(result.fun) for result in found if math.isfinite(float(result.fun))]
    return min(losses, default=math.nan)


def _starts(calls: list[Call], width: int) -> list[Floats]:
    """Zero; and the mean and the median of targets that are predicted themselves, where some losses have a kink."""
    starts = [np.zeros(width)]
    if all(call.targets.shape == call.shape and call.targets.is_floating_point() for call in calls):
        targets = [call.targets.double() for call in calls]
        rows = torch.cat([(t.movedim(1, -1) if t.ndim > 1 else t).reshape(-1, width) for t in targets])
        starts += [rows.mean(0).numpy(), rows.median(0).values.numpy()]
    return starts
