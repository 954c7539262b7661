"""Run one backward and turn the gradients that pass the planned operations into per-sample gradients of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from gsnr_toolkit.gradients.taps.forward import Pass
from gsnr_toolkit.gradients.taps.graph import Edge
from gsnr_toolkit.gradients.taps.plan import Plan, PlannedUse, Route
from gsnr_toolkit.gradients.taps.rules.table import RULES
from gsnr_toolkit.gradients.taps.rules.use import Use
from gsnr_toolkit.gradients.taps.terms import Computed, Part, Placed, Stored, Term, add_terms
from gsnr_toolkit.gradients.taps.views import View
from gsnr_toolkit.types import Params

Receive: TypeAlias = Callable[[str, list[Part]], None]
"""Called with a parameter's name and its gradients, on disjoint views."""


def tap(forward: Pass, plan: Plan, params: Params, receive: Receive, declined: dict[str, str]) -> None:
    """Run the one backward, and pass on each parameter's gradients as soon as its last use was reached.

    Args:
        forward: A forward pass.
        plan: The plan of its graph.
        params: The parameters.
        receive: Called once for each parameter in the plan; with zeros for those that the loss does not reach.
        declined: Filled with the parameters for which a rule turned out to have no formula, and the reason.
    """
    collector = _Collector(forward, plan, params, receive, declined)
    if collector.uses_at:
        weights = torch.ones_like(forward.losses)
        forward.graph.pull(collector.uses_at, weights, collector.meet, retain=False)
    for name in plan.unreached:
        zeros = params[name].new_zeros(()).expand(forward.count, *params[name].shape)
        receive(name, [Part(Stored(zeros), ())])


class _Collector:
    """Collect the gradients of each parameter's uses during one backward.

    Attributes:
        uses_at: Planned uses by position in the graph.
    """

    def __init__(self, forward: Pass, plan: Plan, params: Params, receive: Receive, declined: dict[str, str]) -> None:
        self._forward, self._plan, self._params = forward, plan, params
        self._receive, self._declined = receive, declined
        self._missing = plan.expected()
        self._parts: dict[str, list[Part]] = {name: [] for name in self._missing}
        self.uses_at: dict[int, list[PlannedUse]] = {}
        for use in plan.uses:
            self.uses_at.setdefault(use.position, []).append(use)

    @torch.no_grad()
    def meet(self, position: int, grads: tuple[Tensor | None, ...]) -> None:
        """Take the output gradients of one operation, and apply its rule to each of its uses."""
        for use in self.uses_at[position]:
            term = self._term(use, grads[0])
            if term is None:
                kind = self._forward.graph.names[position].removesuffix("Backward")
                self._declined.update({route.name: f"{kind} is used in an unusual way" for route in use.routes})
                continue
            for route in use.routes:
                self._add(route.name, self._part(use.source, route, term))

    def _add(self, name: str, part: Part) -> None:
        """Keep one use's gradients of a parameter; with the last use, pass all of them on."""
        self._parts[name].append(part)
        self._missing[name] -= 1
        if not self._missing[name]:
            shape = tuple(self._params[name].shape)
            # pop: the factors are freed as soon as they are merged
            self._receive(name, _join(self._parts.pop(name), shape, name in self._plan.placed))

    def _term(self, use: PlannedUse, gradient: Tensor | None) -> Term | None:
        graph, count = self._forward.graph, self._forward.count
        shape, kind = graph.shape(use.source), graph.names[use.position]
        if gradient is None:
            like = graph.losses
            return Computed(lambda a, b: like.new_zeros(b - a, *shape), count, shape)
        output_shape = graph.shape((use.position, 0))
        return RULES[kind](Use(graph.nodes[use.position], use.slot, shape, output_shape, use.owner, count, gradient))

    def _part(self, source: Edge, route: Route, term: Term) -> Part:
        """Bring a value's gradients to the parameter: as a view of it, or back through autograd."""
        if route.views is not None:
            return Part(term, route.views)
        graph, leaf = self._forward.graph, self._forward.leaves[route.name]

        def pulled(start: int, stop: int) -> Tensor:
            grads = term.samples(start, stop)
            with torch.enable_grad():
                (found,) = torch.autograd.grad(
                    [graph.edge(source)], [leaf], grad_outputs=[grads], is_grads_batched=True, retain_graph=True
                )
            return found

        return Part(Computed(pulled, term.count, tuple(leaf.shape)), ())


def _join(parts: list[Part], shape: tuple[int, ...], placed: bool) -> list[Part]:
    """Add the uses of each view; uses of overlapping views are added in the parameter's own shape."""
    by_view: dict[tuple[View, ...], list[Term]] = {}
    for term, views in parts:
        by_view.setdefault(views, []).append(term)
    joined = [Part(add_terms(terms), views) for views, terms in by_view.items()]
    return joined if placed else [Part(as_whole(joined, shape), ())]


def as_whole(parts: list[Part], shape: tuple[int, ...]) -> Term:
    """Join the parts of a parameter into one term of the parameter's shape."""
    return add_terms([Placed(term, views, shape) if views else term for term, views in parts])
