"""View operations between a parameter and its use, replayed on tensors of the parameter's shape.

A packed weight reaches its uses through ``split``, ``transpose`` and the like. The same views, taken of an
accumulator of the parameter's shape, give the place where that use's gradients belong: nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gsnr_toolkit.gradients.taps.graph import Node

_IDENTITY = {"ToCopyBackward", "CloneBackward", "AliasBackward", "ContiguousBackward", "ViewAsBackward"}
_RESHAPES = {"ViewBackward", "UnsafeViewBackward", "ReshapeAliasBackward", "SqueezeBackward", "UnsqueezeBackward"}


@dataclass(frozen=True)
class View:
    """One view operation.

    Attributes:
        kind: Name of the operation.
        arguments: Its arguments, comparable.
    """

    kind: str
    arguments: tuple[Any, ...] = ()

    def __call__(self, tensor: Tensor) -> Tensor:
        """Take this view of a tensor; it shares memory.

        Args:
            tensor: Of the shape that the operation saw.

        Returns:
            The view.

        Raises:
            RuntimeError: If the tensor's strides allow no such view.

        >>> View("TransposeBackward", (0, 1))(torch.zeros(2, 3)).shape
        torch.Size([3, 2])
        """
        return _REPLAY[self.kind](tensor, *self.arguments)


_REPLAY: dict[str, Callable[..., Tensor]] = {
    "identity": lambda tensor: tensor,
    "view": lambda tensor, shape: tensor.view(shape),
    "TBackward": lambda tensor: tensor.t(),
    "TransposeBackward": lambda tensor, first, second: tensor.transpose(first, second),
    "PermuteBackward": lambda tensor, dims: tensor.permute(dims),
    "SelectBackward": lambda tensor, dim, index: tensor.select(dim, index),
    "SliceBackward": lambda tensor, dim, start, end, step: tensor[(slice(None),) * dim + (slice(start, end, step),)],
    "SplitBackward": lambda tensor, size, dim, nr: torch.split(tensor, size, dim)[nr],
    "SplitWithSizesBackward": lambda tensor, sizes, dim, nr: torch.split(tensor, list(sizes), dim)[nr],
    "UnbindBackward": lambda tensor, dim, nr: tensor.unbind(dim)[nr],
}


def read_view(node: Node, kind: str, output: int) -> View | None:
    """Read a view operation off its graph node.

    Args:
        node: The node.
        kind: Its operation.
        output: Which output is used.

    Returns:
        The view; None if the operation is no view that can be replayed.

    >>> weight = torch.zeros(2, 3, requires_grad=True)
    >>> read_view(weight.t().grad_fn, "TBackward", 0)
    View(kind='TBackward', arguments=())
    """
    if kind in _IDENTITY:
        return View("identity")
    if kind.rstrip("0123456789") in _RESHAPES:
        return View("view", (tuple(node._input_metadata[output].shape),))
    reader = _READ.get(kind)
    return None if reader is None else View(kind, reader(node, output))


_READ: dict[str, Callable[[Node, int], tuple[Any, ...]]] = {
    "TBackward": lambda _, __: (),
    "TransposeBackward": lambda node, _: (_signed(node._saved_dim0), _signed(node._saved_dim1)),
    "PermuteBackward": lambda node, _: (tuple(_signed(dim) for dim in node._saved_dims),),
    "SelectBackward": lambda node, _: (_signed(node._saved_dim), _signed(node._saved_index)),
    "SliceBackward": lambda node, _: (
        _positive(node._saved_dim, node._saved_self_sym_sizes),
        _signed(node._saved_start),
        _signed(node._saved_end),
        _signed(node._saved_step),
    ),
    "SplitBackward": lambda node, nr: (_signed(node._saved_split_size), _signed(node._saved_dim), nr),
    "SplitWithSizesBackward": lambda node, nr: (tuple(node._saved_split_sizes), _signed(node._saved_dim), nr),
    "UnbindBackward": lambda node, nr: (_signed(node._saved_dim), nr),
}


def _signed(value: int | None) -> int | None:
    """Graph nodes show negative numbers as unsigned 64-bit ones."""
    return value - 2**64 if value is not None and value >= 2**63 else value


def _positive(dim: int, sizes: tuple[int, ...]) -> int:
    signed = _signed(dim)
    assert signed is not None
    return signed % len(sizes)


def follow(views: tuple[View, ...], tensor: Tensor) -> Tensor:
    """Take one view after the other.

    Returns:
        The last view.
    """
    for view in views:
        tensor = view(tensor)
    return tensor


def can_follow(views: tuple[View, ...], shape: tuple[int, ...]) -> bool:
    """Whether a contiguous tensor of a shape has these views (no memory is used to find out)."""
    try:
        follow(views, torch.empty(shape, device="meta"))
    except RuntimeError:
        return False
    return True


def are_disjoint(all_views: list[tuple[View, ...]], shape: tuple[int, ...]) -> bool:
    """Whether several views of one tensor have no entry in common."""
    seen = torch.zeros(shape, dtype=torch.uint8)
    for views in all_views:
        follow(views, seen).add_(1)
    return bool((seen <= 1).all())
