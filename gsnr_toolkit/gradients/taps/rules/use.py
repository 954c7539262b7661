"""What a rule receives, and the helpers that several rules share."""

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
    """One operation that meets samples with a value made of parameters alone.

    Attributes:
        node: The operation.
        slot: Which of its inputs that value is.
        shape: The value's shape.
        output_shape: Shape of the operation's output.
        owner: How the output is dealt out to samples.
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

    def split(self, tensor: Tensor, owner: Owner | None = None) -> Tensor:
        """Put samples first in a tensor that is dealt out like the output, or like ``owner``."""
        return (owner or self.owner).split(tensor, self.count)

    @property
    def grad(self) -> Tensor:
        """Output gradient with samples first, shape ``(N, *output, with the sample's share of its dimension)``."""
        return self.split(self.gradient)


Rule: TypeAlias = Callable[[Use], Term | None]

RULES: dict[str, Rule] = {}
"""Operation to rule. An operation that is not here goes to another engine."""


def rule(operation: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of an operation.

    Args:
        operation: Name of the autograd node without its number, such as ``"AddmmBackward"``.

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
        shape: Shape that was broadcast.

    Returns:
        Shape ``(N, *shape)``, summed over the dimensions that broadcasting made or stretched; at least float32.

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
    """Whether the value is the same for all samples along the dimension that counts them."""
    place = use.owner.dim - (len(use.output_shape) - len(use.shape))
    return place < 0 or use.shape[place] == 1


def added(use: Use, factor: float) -> Term | None:
    if not same_for_all_samples(use):
        return None
    return Stored(reduce_to(use.grad if factor == 1 else use.grad * factor, use.shape))


def summed_per_channel(use: Use, values: Tensor) -> Stored:
    """Sum everything but samples and channels; values have the output's shape (N, C, ...)."""
    split = use.split(values)  # (N, share, C, ...)
    flat = split.flatten(3) if split.ndim > 3 else split.unsqueeze(-1)
    return Stored(full_precision(flat).sum((1, 3)).view(use.count, *use.shape))
