"""The autograd graph of one batch's losses: its nodes in a fixed order, their consumers, and a backward that taps them.

Uses PyTorch's documented graph interface: ``grad_fn``, ``next_functions``, node pre-hooks and ``GradientEdge``. It does
not look at module classes, and so treats raw parameters and subclasses like any others.
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
"""A value in the graph: position of the node that computed it, and number of the output."""

Receive: TypeAlias = Callable[[int, tuple[Tensor | None, ...]], None]
"""Called with a node's position and the gradients of its outputs."""


@dataclass(frozen=True)
class Consumer:
    """A node that uses a value as its input number ``slot``."""

    position: int
    slot: int


class Graph:
    """The graph behind a tensor of losses.

    Two graphs of one model have the same :attr:`signature` if they hold the same operations with the same connections;
    the number of samples does not matter.

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
        """Return the shape of a value in the graph; raise an EngineError if a size is not a number."""
        node, nr = edge
        found = tuple(self.nodes[node]._input_metadata[nr].shape)
        if not all(isinstance(size, int) for size in found):
            raise EngineError(
                f"expected tensors with a size in every dimension, got a nested (jagged) one from {self.names[node]}; "
                "pad it, or pass engine='loop'"
            )
        return found

    def dtype(self, edge: Edge) -> torch.dtype:
        """Return the type of a value in the graph."""
        node, nr = edge
        return self.nodes[node]._input_metadata[nr].dtype

    def coarsest(self) -> torch.dtype:
        """Return the least precise type of any value, also inside autocast."""
        found = {meta.dtype for node in self.nodes for meta in node._input_metadata if meta.dtype.is_floating_point}
        return max(found, key=lambda dtype: torch.finfo(dtype).eps)

    def outputs(self, position: int) -> list[int]:
        """Return the numbers of a node's outputs that are used; 0 for the last node."""
        count = len(self.nodes[position]._input_metadata)
        used = [nr for nr in range(count) if (position, nr) in self.consumers]
        return used or [0]

    def edge(self, edge: Edge) -> GradientEdge:
        """Return the value in the form that ``torch.autograd.grad`` takes."""
        return GradientEdge(self.nodes[edge[0]], edge[1])

    def above(self, edge: Edge) -> list[Consumer]:
        """Return the consumers of a value."""
        return self.consumers.get(edge, [])

    def pull(self, wanted: Collection[int], weights: Tensor, receive: Receive, *, retain: bool) -> None:
        """Run one backward, and pass on the output gradients of every wanted node as the backward reaches it.

        Gradients that lead to no wanted node are not computed, in particular those of parameters. The backward runs
        through wanted nodes that have another wanted node below them; a pre-hook reads their gradients before they free
        their saved tensors. It ends at the other wanted nodes, whose gradients are its results.

        Args:
            wanted: Positions of nodes.
            weights: Gradient of each loss, shape ``(N,)``.
            receive: Called with a position and the gradients of its outputs (None means zero).
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
        """Return the wanted nodes with no other wanted node below them."""
        targets = set(wanted)
        below: dict[int, bool] = {}
        for i in self.bottom_up():
            kids = [edge[0] for edge in self.inputs[i] if edge is not None]
            below[i] = any(kid in targets or below[kid] for kid in kids)
        return {i for i in targets if not below[i]}

    def bottom_up(self) -> list[int]:
        """Return positions in an order in which every node comes after all nodes below it."""
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
    """Return a pre-hook that passes on a node's gradients and does not change them."""

    def hook(grads: tuple[Tensor | None, ...]) -> None:
        receive(position, grads)

    return hook


def operation(node: Node) -> str:
    """Return the name of a node's operation without the number that PyTorch appends.

    >>> operation((torch.ones(2, requires_grad=True) * 2).grad_fn)
    'MulBackward'
    """
    return node.name().removeprefix("torch::autograd::").rstrip("0123456789")


def _preorder(root: Node) -> list[Node]:
    """Return each node once, in an order that depends only on the graph's structure."""
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
