"""The autograd graph of one batch's losses: nodes in a fixed order, who uses what, and where gradients can be tapped.

Everything here is PyTorch's documented graph interface: ``grad_fn``, ``next_functions``, node pre-hooks and
``GradientEdge``. No module class is looked at, so that raw parameters and subclasses are seen like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gsnr_toolkit.errors import EngineError
from gsnr_toolkit.types import Params

Node: TypeAlias = Any
"""A node of the autograd graph (``torch.autograd.graph.Node``)."""

Edge: TypeAlias = tuple[int, int]
"""A value in the graph: position of the node that made it, and which of its outputs."""


Receive: TypeAlias = Callable[[int, tuple[Tensor | None, ...]], None]
"""Called with a node's position and the gradients of its outputs."""


@dataclass(frozen=True)
class Consumer:
    """A node that takes a value as its input number ``slot``."""

    position: int
    slot: int


class Graph:
    """The graph behind a tensor of losses.

    Two graphs of one model have the same :attr:`signature` when they hold the same operations, joined alike,
    whatever the number of samples.

    Args:
        losses: Losses with a ``grad_fn``, shape ``(N,)``.
        leaves: The parameters' leaf tensors by name.
    """

    def __init__(self, losses: Tensor, leaves: Params) -> None:
        self.losses = losses
        self.nodes = _preorder(losses.grad_fn)
        position = {node: i for i, node in enumerate(self.nodes)}
        self.inputs: list[list[Edge | None]] = [
            [None if node is None else (position[node], nr) for node, nr in parent.next_functions]
            for parent in self.nodes
        ]
        self.consumers: dict[Edge, list[Consumer]] = {}
        for parent, edges in enumerate(self.inputs):
            for slot, edge in enumerate(edges):
                if edge is not None:
                    self.consumers.setdefault(edge, []).append(Consumer(parent, slot))
        names = {id(leaf): name for name, leaf in leaves.items()}
        found = {i: names.get(id(getattr(node, "variable", None))) for i, node in enumerate(self.nodes)}
        self.leaves: dict[str, int] = {name: i for i, name in found.items() if name is not None}
        self.names = [operation(node) for node in self.nodes]
        self.signature = hash((tuple(self.names), tuple(tuple(edges) for edges in self.inputs)))

    def shape(self, edge: Edge) -> tuple[int, ...]:
        """Shape of a value in the graph.

        Returns:
            Its sizes.

        Raises:
            EngineError: If a size is not a number.
        """
        node, nr = edge
        found = tuple(self.nodes[node]._input_metadata[nr].shape)
        if not all(isinstance(size, int) for size in found):
            raise EngineError(
                f"expected tensors with a size in every dimension, got a nested (jagged) one from {self.names[node]}; "
                "pad it, or pass engine='loop'"
            )
        return found

    def dtype(self, edge: Edge) -> torch.dtype:
        """Type of a value in the graph."""
        node, nr = edge
        return self.nodes[node]._input_metadata[nr].dtype

    def coarsest(self) -> torch.dtype:
        """The least precise type that any value has, below autocast as well."""
        found = {meta.dtype for node in self.nodes for meta in node._input_metadata if meta.dtype.is_floating_point}
        return max(found, key=lambda dtype: torch.finfo(dtype).eps)

    def outputs(self, position: int) -> list[int]:
        """Numbers of a node's outputs that somebody uses; 0 for the last node."""
        count = len(self.nodes[position]._input_metadata)
        used = [nr for nr in range(count) if (position, nr) in self.consumers]
        return used or [0]

    def edge(self, edge: Edge) -> GradientEdge:
        """The value as PyTorch wants it in ``torch.autograd.grad``."""
        return GradientEdge(self.nodes[edge[0]], edge[1])

    def above(self, edge: Edge) -> list[Consumer]:
        """Who uses a value."""
        return self.consumers.get(edge, [])

    def pull(
        self,
        wanted: Collection[int],
        weights: Tensor,
        receive: Receive,
        *,
        retain: bool,
    ) -> None:
        """Run one backward and hand over the gradient of every wanted node's outputs as it comes by.

        No gradient is formed that leads to no wanted node: not that of any parameter. Nodes with a wanted node
        below them are passed on the way, and a pre-hook reads their gradient before they free what they saved; the
        others end the backward, and their gradients are its results.

        Args:
            wanted: Positions of nodes.
            weights: Gradient of each loss, shape ``(N,)``.
            receive: Called with a position and the gradients of its outputs (None: zero).
            retain: Keep the graph for another backward.
        """
        last = self._last(wanted)
        hooks = [self.nodes[i].register_prehook(_hook(receive, i)) for i in wanted if i not in last]
        ends = [(i, nr) for i in sorted(last) for nr in self.outputs(i)]
        try:
            found = torch.autograd.grad(
                self.losses,
                [self.edge(end) for end in ends],
                grad_outputs=weights,
                retain_graph=retain,
                allow_unused=True,
            )
        finally:
            for hook in hooks:
                hook.remove()
        with torch.no_grad():
            for i in sorted(last):
                outputs: list[Tensor | None] = [None] * len(self.nodes[i]._input_metadata)
                for (node, nr), grad in zip(ends, found, strict=True):
                    if node == i:
                        outputs[nr] = grad
                receive(i, tuple(outputs))

    def _last(self, wanted: Iterable[int]) -> set[int]:
        """Wanted nodes with no other wanted node below them."""
        targets = set(wanted)
        below: dict[int, bool] = {}
        for i in self.bottom_up():
            kids = [edge[0] for edge in self.inputs[i] if edge is not None]
            below[i] = any(kid in targets or below[kid] for kid in kids)
        return {i for i in targets if not below[i]}

    def bottom_up(self) -> list[int]:
        """Positions so that every node comes after all that it leads to."""
        done: set[int] = set()
        order: list[int] = []
        stack = [(0, False)]
        while stack:
            i, left = stack.pop()
            if left:
                order.append(i)
                continue
            if i in done:
                continue
            done.add(i)
            stack.append((i, True))
            stack.extend((edge[0], False) for edge in self.inputs[i] if edge is not None and edge[0] not in done)
        return order


def _hook(receive: Receive, position: int) -> Callable[[tuple[Tensor | None, ...]], None]:
    """A pre-hook that hands a node's gradients over and leaves them as they are."""

    def hook(grads: tuple[Tensor | None, ...]) -> None:
        receive(position, grads)

    return hook


def operation(node: Node) -> str:
    """Name of a node's operation without the number that PyTorch appends.

    Returns:
        Such as ``"AddmmBackward"``.

    >>> operation((torch.ones(2, requires_grad=True) * 2).grad_fn)
    'MulBackward'
    """
    return node.name().removeprefix("torch::autograd::").rstrip("0123456789")


def _preorder(root: Node) -> list[Node]:
    """All nodes once each, in an order that depends on the graph's structure alone."""
    seen: set[Node] = set()
    order: list[Node] = []
    stack = [root]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        order.append(node)
        stack.extend(child for child, _ in reversed(node.next_functions) if child is not None)
    return order
