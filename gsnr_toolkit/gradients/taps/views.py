"""Replay the view operations between a parameter and its use on other tensors of the parameter's shape.

A packed weight reaches its uses through ``split``, ``transpose`` and similar views. The same views of an accumulator of
the parameter's shape give the place where the gradients of that use belong, without a copy.
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
        arguments: Its arguments, hashable.
    """

    kind: str
    arguments: tuple[Any, ...] = ()

    def __call__(self, tensor: Tensor) -> Tensor:
        """Take this view of a tensor.

        Args:
            tensor: A tensor of the shape that the operation received.

        Returns:
            The view; it shares the tensor's memory.

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
    """Read a view operation from its graph node.

    Args:
        node: The node.
        kind: Its operation.
        output: Number of the output that is used.

    Returns:
        The view, or None if the operation is not a view that can be replayed.

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
    """Undo the graph nodes' habit of showing negative numbers as unsigned 64-bit ones."""
    return value - 2**64 if value is not None and value >= 2**63 else value


def _positive(dim: int, sizes: tuple[int, ...]) -> int:
    signed = _signed(dim)
    assert signed is not None
    return signed % len(sizes)


def follow(views: tuple[View, ...], tensor: Tensor) -> Tensor:
    """Take all views of a tensor, one after the other."""
    for view in views:
        tensor = view(tensor)
    return tensor


def can_follow(views: tuple[View, ...], shape: tuple[int, ...]) -> bool:
    """Whether a contiguous tensor of this shape has these views; the test uses no memory."""
    try:
        follow(views, torch.empty(shape, device="meta"))
    except RuntimeError:
        return False
    return True


def are_disjoint(all_views: list[tuple[View, ...]], shape: tuple[int, ...]) -> bool:
    """Whether several views of one tensor share no entry."""
    seen = torch.zeros(shape, dtype=torch.uint8)
    for views in all_views:
        follow(views, seen).add_(1)
    return bool((seen <= 1).all())
