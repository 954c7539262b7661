"""The model as a function of its parameters, which every engine differentiates, and the interface of engines.

Nothing here changes the model. Gradients are taken with respect to detached aliases of its parameters, so ``.grad``,
``requires_grad`` and the values stay unchanged, even after an error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.refusals import in_plain_words
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.losses import check_loss_shape
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.types import Batch, Params, PerSampleLoss

AnyMoments: TypeAlias = Moments | GroupMoments


class _LossModule(nn.Module):
    """``loss_fn(model, batch)`` as a module, so that ``functional_call`` can swap the parameters."""

    def __init__(self, model: nn.Module, loss_fn: PerSampleLoss) -> None:
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn

    def forward(self, batch: Batch, then: Callable[[Tensor], Any]) -> Any:
        return then(check_loss_shape(self.loss_fn(self.model, batch), batch_length(batch)))


@dataclass(frozen=True)
class GradientTask:
    """A model, the parameters to differentiate, and a loss with one number per sample.

    Attributes:
        model: The model, in the mode (train or eval) in which to measure it.
        params: Detached aliases of the chosen parameters, by name.
        loss_fn: ``(model, batch) -> (N,)``.
        constants: Replacements for other parameters and buffers, needed on another device.
    """

    model: nn.Module
    params: Params
    loss_fn: PerSampleLoss
    constants: Params = field(default_factory=dict)

    @property
    def num_params(self) -> int:
        """Number of scalar parameters P."""
        return sum(param.numel() for param in self.params.values())

    def losses(self, params: Params, batch: Batch) -> Tensor:
        """Evaluate the loss at other parameter values.

        Args:
            params: Values for some or all of the model's parameters, by name.
            batch: A batch of N samples.

        Returns:
            Losses, shape ``(N,)``.
        """
        return self.run(params, batch, lambda losses: losses)

    def run(self, params: Params, batch: Batch, then: Callable[[Tensor], Any]) -> Any:
        """Evaluate the losses, and apply ``then`` to them while the model still holds these parameters.

        Args:
            params: Values for some or all of the model's parameters, by name.
            batch: A batch of N samples.
            then: Takes the losses, shape ``(N,)``.

        Returns:
            What ``then`` returns.
        """
        wrapper = _LossModule(self.model, self.loss_fn)
        wrapper.training = self.model.training
        named = {f"model.{name}": value for name, value in {**self.constants, **params}.items()}
        with _uncompiled():
            return functional_call(wrapper, named, (batch, then))

    def mean_gradient(self, batch: Batch, params: Params | None = None) -> tuple[Params, Tensor]:
        """Compute the gradient of the batch's mean loss, at the task's parameters or at others.

        Args:
            batch: A batch of N samples.
            params: Parameters to evaluate at; the task's own when None.

        Returns:
            ``(gradient by name, losses (N,))``; a parameter that the loss does not reach has gradient 0.
        """
        leaves = {name: value.detach().requires_grad_() for name, value in (params or self.params).items()}

        def differentiate(losses: Tensor) -> tuple[Params, Tensor]:
            check_reaches(losses)
            return gradients_of(losses.mean(), leaves), losses.detach()

        # the backward runs while the model holds the leaves: activation checkpointing runs the model again inside it
        with torch.enable_grad(), in_plain_words():
            return self.run(leaves, batch, differentiate)


def _uncompiled() -> AbstractContextManager[Any]:
    """Run compiled functions eagerly: a fused function hides the operations that use parameters."""
    # without an imported compiler nothing was compiled, and importing it takes seconds
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def gradients_of(loss: Tensor, leaves: Params, *, retain: bool = False) -> Params:
    """Differentiate one loss.

    Args:
        loss: A scalar.
        leaves: Leaves of its graph by name.
        retain: Keep the graph for another backward.

    Returns:
        Dense gradients by name; zero where the loss does not depend on a leaf.
    """
    grads = torch.autograd.grad(loss, list(leaves.values()), retain_graph=retain, allow_unused=True)
    found = {}
    for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
        dense = torch.zeros_like(leaf) if grad is None else grad
        found[name] = dense.to_dense() if dense.is_sparse else dense
    return found


def check_reaches(losses: Tensor) -> None:
    """Check that the loss depends on some measured parameter.

    Raises:
        ProbeError: If the losses do not require a gradient.
    """
    if not losses.requires_grad:
        raise ProbeError(
            "expected the loss to depend on the trainable parameters, but it carries no gradient; "
            "look for .detach(), torch.no_grad() or .item() in the model or loss_fn, and let loss_fn use the "
            "model it is given rather than one from outside"
        )


def trainable_params(model: nn.Module, *, include_frozen: bool = False) -> Params:
    """Return detached aliases of a model's parameters, which share their memory.

    Args:
        model: Any module; a parameter with several names appears once.
        include_frozen: Include frozen parameters, as if they were trained.

    Returns:
        Name to tensor, in the order of ``model.named_parameters()``.

    Raises:
        ProbeError: If there are none, or one is not a real floating-point tensor.
    """
    chosen = {name: p.detach() for name, p in model.named_parameters() if include_frozen or p.requires_grad}
    if not chosen:
        total = sum(1 for _ in model.parameters())
        raise ProbeError(
            f"expected at least one trainable parameter, got none ({total} parameters, all frozen); "
            "set requires_grad_(True) on what you would train, or pass include_frozen=True"
        )
    wrong = [name for name, p in chosen.items() if not p.is_floating_point()]
    if wrong:
        raise ProbeError(
            f"expected real floating-point parameters, got {chosen[wrong[0]].dtype} for {wrong[0]!r} "
            f"({len(wrong)} such); freeze it, or probe a real-valued form of the model"
        )
    return chosen


@dataclass(frozen=True)
class GradientChunk:
    """Per-sample gradients of consecutive rows of one batch, for some or all parameters.

    Attributes:
        start: First row of the batch in this chunk.
        losses: Losses of the c rows, shape ``(c,)``.
        grads: Name to per-sample gradients, shape ``(c, *parameter.shape)``.
    """

    start: int
    losses: Tensor
    grads: Params


class Engine(Protocol):
    """The interface of all engines. An engine may remember what it learned about a task's model."""

    def __call__(self, task: GradientTask, batch: Batch, *, chunk_size: int) -> Iterator[GradientChunk]:
        """Stream the per-sample gradients of a batch.

        Args:
            task: Model, parameters and loss.
            batch: A batch of N samples.
            chunk_size: Most samples whose gradients are in memory at once.

        Returns:
            Chunks of consecutive samples, in order.
        """
        ...

    def accumulate(self, task: GradientTask, batch: Batch, moments: AnyMoments, *, chunk_size: int) -> Tensor:
        """Add the gradients of a batch's samples to moments, and return the losses ``(N,)``; arguments as above."""
        ...

    def shares(self, task: GradientTask) -> dict[str, list[str]]:
        """Return the names of the parameters that each engine served; every parameter appears once."""
        ...

    def notes(self) -> list[str]:
        """Return what a reader must know about how the gradients were computed."""
        ...
