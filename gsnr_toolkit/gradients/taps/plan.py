"""Find the operations that combine parameters with samples, once for each structure of graph, on a small probe batch.

The search goes up from each parameter, through values that all samples share (a transposed weight, a slice of a packed
one, a normalised one), to the operations whose outputs belong to single samples. These are the parameter's uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NoReturn

from gsnr_toolkit.errors import EngineError, MixedSamplesError
from gsnr_toolkit.gradients.taps.graph import Consumer, Edge, Graph
from gsnr_toolkit.gradients.taps.ownership import Evidence, Owner, common_owner, one_hot
from gsnr_toolkit.gradients.taps.rules.table import RULES
from gsnr_toolkit.gradients.taps.views import View, are_disjoint, can_follow, read_view

PROBE_ROWS = (3, 5)
"""Samples of a probe: three, and five where three leave open how an output is split by sample. Both are prime, so that
few other dimensions are multiples of both."""

TWIN_ROWS = 2
"""Samples of one more forward, to check that values split by sample grow with the number of samples."""


@dataclass(frozen=True)
class Route:
    """How a parameter leads to a value: by views, or (``views`` is None) by a function that autograd differentiates."""

    name: str
    views: tuple[View, ...] | None


@dataclass(frozen=True)
class PlannedUse:
    """One operation that combines samples with a value computed from parameters alone.

    Attributes:
        position: The operation's position in the graph.
        slot: Number of the input that is that value.
        source: The value.
        owner: How the operation's output is split by sample.
        routes: The parameters behind the value.
    """

    position: int
    slot: int
    source: Edge
    owner: Owner
    routes: tuple[Route, ...]


@dataclass(frozen=True)
class Plan:
    """All uses of all parameters in graphs of one signature.

    Attributes:
        uses: Uses that a rule covers.
        placed: Parameters whose uses are disjoint views; each use's gradients go to its view.
        other: Parameters that need another engine, with the reason.
        unreached: Parameters that the loss does not depend on; their gradient is zero.
    """

    uses: tuple[PlannedUse, ...]
    placed: frozenset[str]
    other: dict[str, str] = field(default_factory=dict)
    unreached: tuple[str, ...] = ()

    def without(self, reasons: dict[str, str]) -> Plan:
        """Return the plan with more parameters left to another engine."""
        other = {**self.other, **reasons}
        kept = [replace(use, routes=tuple(r for r in use.routes if r.name not in other)) for use in self.uses]
        return replace(self, uses=tuple(use for use in kept if use.routes), other=other)

    def expected(self) -> dict[str, int]:
        """Return the number of uses of each parameter."""
        counts: dict[str, int] = {}
        for use in self.uses:
            for route in use.routes:
                counts[route.name] = counts.get(route.name, 0) + 1
        return counts


class _Finder:
    """Walk up from the parameters, using single samples' gradients to tell which value belongs to which sample."""

    def __init__(self, graph: Graph, count: int) -> None:
        self.graph, self.count = graph, count
        self.routes: dict[Edge, dict[str, tuple[View, ...] | None]] = {}
        self.evidence: dict[Edge, Evidence] = {}
        self.met: list[tuple[Consumer, Edge]] = []

    def walk(self) -> None:
        """Find every shared value, and every operation that combines one with samples."""
        fresh = [(position, 0) for position in self.graph.leaves.values()]
        for name, position in self.graph.leaves.items():
            self.routes[position, 0] = {name: ()}
        while fresh:
            fresh = self._through_views(fresh)
            self._gather_evidence({consumer.position for edge in fresh for consumer in self.graph.above(edge)})
            fresh = [
                made for edge in fresh for consumer in self.graph.above(edge) for made in self._judge(consumer, edge)
            ]
        self._settle()

    def _through_views(self, edges: list[Edge]) -> list[Edge]:
        """Return the values and all views of them: a view of a shared value is shared."""
        found, pending = list(edges), list(edges)
        while pending:
            edge = pending.pop()
            for consumer in self.graph.above(edge):
                node, kind = self.graph.nodes[consumer.position], self.graph.names[consumer.position]
                for nr in self.graph.outputs(consumer.position):
                    view = read_view(node, kind, nr)
                    made = (consumer.position, nr)
                    if view is None or made in self.routes:
                        continue
                    self.routes[made] = {n: None if v is None else (*v, view) for n, v in self.routes[edge].items()}
                    found.append(made)
                    pending.append(made)
        return found

    def _gather_evidence(self, positions: set[int]) -> None:
        """Look at the output gradients of some operations, one sample's loss at a time."""
        known = self.evidence.keys() | self.routes.keys()
        wanted = {i for i in positions if (i, self.graph.outputs(i)[0]) not in known}
        if not wanted:
            return
        for i in wanted:
            for nr in self.graph.outputs(i):
                self.evidence[i, nr] = Evidence.of_shape(self.graph.shape((i, nr)), self.count)
        for sample in range(min(self.count, PROBE_ROWS[1])):

            def receive(i: int, grads: tuple, sample: int = sample) -> None:
                for nr in self.graph.outputs(i):
                    if nr < len(grads) and grads[nr] is not None:
                        self.evidence[i, nr].see(grads[nr], sample, self.count)

            self.graph.pull(wanted, one_hot(sample, self.graph.losses), receive, retain=True)
        for i in wanted:
            for nr in self.graph.outputs(i):
                self.evidence[i, nr].forget()

    def _judge(self, consumer: Consumer, edge: Edge) -> list[Edge]:
        """Return the shared outputs of an operation to continue from; record an operation that combines samples."""
        outputs = [(consumer.position, nr) for nr in self.graph.outputs(consumer.position)]
        if outputs[0] in self.routes and outputs[0] not in self.evidence:
            return []  # a view
        if not any(self.evidence[output].overlap for output in outputs):
            self.met.append((consumer, edge))
            return []
        fresh = [output for output in outputs if output not in self.routes]
        for output in fresh:
            self.routes[output] = dict.fromkeys(self.routes[edge])
        return fresh

    def _settle(self) -> None:
        """Assign functions of several parameters to all of them, not only to the first one found."""
        for i in self.graph.bottom_up():
            behind = [edge for edge in self.graph.inputs[i] if edge in self.routes]
            for nr in self.graph.outputs(i):
                if (i, nr) not in self.routes or not behind:
                    continue
                view = None if (i, nr) in self.evidence else read_view(self.graph.nodes[i], self.graph.names[i], nr)
                self.routes[i, nr] = {
                    name: (*views, view) if view is not None and views is not None else None
                    for edge in behind
                    for name, views in self.routes[edge].items()
                }


def make_plan(
    probe: Callable[[int], Graph], params: dict[str, tuple[int, ...]], exactly: int | None = None
) -> tuple[Plan, Graph]:
    """Find all uses of all parameters.

    Args:
        probe: Runs the model on a number of samples and returns the graph of their losses.
        params: Shape of each parameter.
        exactly: The only number of samples to try; three, and five if necessary, when None.

    Returns:
        The plan, and the first probe's graph.

    Raises:
        MixedSamplesError: If a value between parameters and samples grows with the batch although all samples reach it.
        EngineError: If the graph changes from run to run.
    """
    count = exactly or PROBE_ROWS[0]
    graph = probe(count)
    finder = _Finder(graph, count)
    finder.walk()
    second: list[_Finder] = []

    def other_probe() -> _Finder | None:
        if not second:
            finder_again = _Finder(probe(PROBE_ROWS[1]), exactly or PROBE_ROWS[1])
            if finder_again.graph.signature == graph.signature:
                finder_again.walk()
            second.append(finder_again)
        return second[0] if second[0].graph.signature == graph.signature else None

    uses, reasons = [], {}
    for consumer, edge in finder.met:
        use, reason = _plan_use(finder, other_probe, consumer, edge)
        if use is not None:
            uses.append(use)
        reasons.update(dict.fromkeys(finder.routes[edge], reason) if reason else {})
    if exactly is None:
        twin = probe(TWIN_ROWS)
        if twin.signature != graph.signature and probe(count).signature not in (graph.signature, twin.signature):
            refuse_changing_graph()
        reasons.update(_not_growing(uses, graph, count, twin))
    if reasons or any(views is None for routes in finder.routes.values() for views in routes.values()):
        _insist_on_separate_samples(finder, other_probe())
    unreached = tuple(name for name in params if name not in graph.leaves)
    plan = Plan(tuple(uses), frozenset(), unreached=unreached).without(reasons)
    return replace(plan, placed=_placed(plan, params)), graph


def refuse_changing_graph() -> NoReturn:
    """Refuse a model whose graph changes from run to run.

    Raises:
        EngineError: Always.
    """
    raise EngineError(
        "expected a model that runs the same operations each time it sees a batch, but the graph of its losses changed "
        "from one run to the next; pass engine='loop'"
    )


def _plan_use(
    finder: _Finder, other_probe: Callable[[], _Finder | None], consumer: Consumer, edge: Edge
) -> tuple[PlannedUse | None, str]:
    kind = finder.graph.names[consumer.position]
    if kind not in RULES:
        return None, f"no rule for {kind.removesuffix('Backward')}"
    output = (consumer.position, 0)
    if finder.graph.dtype(output).is_complex:
        return None, f"no rule for {kind.removesuffix('Backward')} of complex numbers"
    seen = [(finder.graph.shape(output), finder.evidence[output])]
    owner = common_owner(seen, [finder.count]) if seen[0][1].reached else None
    if owner is None:
        again = other_probe()
        if again is not None and output in again.evidence:
            seen.append((again.graph.shape(output), again.evidence[output]))
            owner = common_owner(seen, [finder.count, again.count])
    if owner is None:
        return None, _unclear(kind)
    routes = tuple(Route(name, _usable(views, finder, name)) for name, views in finder.routes[edge].items())
    return PlannedUse(consumer.position, consumer.slot, edge, owner, routes), ""


def _unclear(kind: str) -> str:
    return f"which rows of {kind.removesuffix('Backward')} belong to which sample could not be determined"


def _not_growing(uses: list[PlannedUse], graph: Graph, count: int, twin: Graph) -> dict[str, str]:
    """Find parameters of operations whose rows do not grow with the samples, such as a table with three rows in use."""
    found: dict[str, str] = {}
    for use in uses if twin.signature == graph.signature else []:
        rows, twin_rows = (one.shape((use.position, 0))[use.owner.dim] for one in (graph, twin))
        if rows * TWIN_ROWS != twin_rows * count:
            found.update({route.name: _unclear(graph.names[use.position]) for route in use.routes})
    return found


def _usable(views: tuple[View, ...] | None, finder: _Finder, name: str) -> tuple[View, ...] | None:
    """Return views that an accumulator of the parameter's shape has too, or None to go through autograd."""
    if views is None or not can_follow(views, finder.graph.shape((finder.graph.leaves[name], 0))):
        return None
    return views


def _insist_on_separate_samples(finder: _Finder, again: _Finder | None) -> None:
    """Check that no value that all samples reach grows with the number of samples."""
    if again is None:
        return
    for edge in finder.routes:
        if finder.graph.shape(edge) != again.graph.shape(edge):
            kind = finder.graph.names[edge[0]].removesuffix("Backward")
            raise MixedSamplesError(
                f"expected a loss per sample that depends on that sample alone, but gradients of several samples' "
                f"losses reach the same rows of an operation {kind} with output {finder.graph.shape(edge)} for "
                f"{finder.count} samples; batch statistics, contrastive losses and means over the batch mix samples: "
                "rewrite the model or loss_fn so that row i needs sample i only"
            )


def _placed(plan: Plan, params: dict[str, tuple[int, ...]]) -> frozenset[str]:
    """Return the parameters whose distinct views are all disjoint."""
    views: dict[str, set[tuple[View, ...] | None]] = {}
    for use in plan.uses:
        for route in use.routes:
            views.setdefault(route.name, set()).add(route.views)
    good = set()
    for name, found in views.items():
        paths = [path for path in found if path is not None]
        if len(paths) == len(found) and (len(paths) == 1 or are_disjoint(paths, params[name])):
            good.add(name)
    return frozenset(good)
