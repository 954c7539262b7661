"""The interface of rules: what a rule receives, how it registers, and helpers that several rules share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from gsnr_toolkit.gradients.taps.graph import Node
from gsnr_toolkit.gradients.taps.ownership import Owner
from gsnr_toolkit.gradients.taps.terms import Stored, Term, full_precision


@dataclass(frozen=True)
class Use:
    """One operation that combines samples with a value computed from parameters alone.

    Attributes:
        node: The operation's graph node, with its saved tensors (``node._saved_<name>``).
        slot: Number of the input that is that value.
        shape: The value's shape.
        output_shape: Shape of the operation's output.
        owner: How the output is split by sample.
        count: Number N of samples.
        gradient: Gradient of the output.
    """

    node: Node
    slot: int
    shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    owner: Owner
    count: int
    gradient: Tensor

    def split(self, tensor: Tensor) -> Tensor:
        """Move samples to the first dimension of a tensor that is split by sample in the same way as the output."""
        return self.owner.split(tensor, self.count)

    @property
    def grad(self) -> Tensor:
        """Output gradient with samples first; the output's dimension ``owner.dim`` is cut to one sample's share."""
        return self.split(self.gradient)


Rule: TypeAlias = Callable[[Use], Term | None]
"""Returns per-sample gradients of the value, or None for a use that the rule's formula does not cover."""

RULES: dict[str, Rule] = {}
"""Rules by operation. The parameters of an operation without a rule go to another engine."""


def rule(operation: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of an operation.

    A rule need not be proven right for every use: the engine checks each parameter of a model against one backward per
    sample before it relies on the rule.

    Args:
        operation: Name of the autograd node without its number, such as ``"AddmmBackward"``; that is
            ``output.grad_fn.name()`` without trailing digits.

    Returns:
        The decorator.
    """

    def register(function: Rule) -> Rule:
        RULES[operation] = function
        return function

    return register


def reduce_to(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo broadcasting, sample by sample.

    Args:
        values: Shape ``(N, *broadcast)``.
        shape: Shape before broadcasting.

    Returns:
        Shape ``(N, *shape)``, summed over the dimensions that broadcasting added or stretched; float32 or better.

    >>> import torch
    >>> reduce_to(torch.ones(2, 3, 4), (1, 4)).shape, reduce_to(torch.ones(2, 3, 4), ()).tolist()
    (torch.Size([2, 1, 4]), [12.0, 12.0])
    """
    values = full_precision(values)
    made = values.ndim - 1 - len(shape)
    stretched = [made + i for i, size in enumerate(shape) if size == 1 and values.shape[1 + made + i] != 1]
    dims = [1 + dim for dim in (*range(made), *stretched)]
    summed = values.sum(dims, keepdim=True) if dims else values
    return summed.reshape(values.shape[0], *shape)


def same_for_all_samples(use: Use) -> bool:
    """Whether all samples share the value: it has no dimension, or one of size 1, where the output counts samples."""
    place = use.owner.dim - (len(use.output_shape) - len(use.shape))
    return place < 0 or use.shape[place] == 1


def added(use: Use, factor: float) -> Term | None:
    """Return the gradients of a value that is scaled, broadcast and added: the output gradient, summed."""
    if not same_for_all_samples(use):
        return None
    return Stored(reduce_to(use.grad if factor == 1 else use.grad * factor, use.shape))


def summed_per_channel(use: Use, values: Tensor) -> Stored:
    """Sum values of the output's shape ``(N, C, ...)`` over all dimensions except samples and channels."""
    split = use.split(values)  # (N, share, C, ...)
    flat = split.flatten(3) if split.ndim > 3 else split.unsqueeze(-1)
    return Stored(full_precision(flat).sum((1, 3)).view(use.count, *use.shape))
