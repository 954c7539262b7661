"""The fused engine: one ordinary forward, one backward that forms no weight gradient of its own.

Parameters are followed through the autograd graph to the operations that use them (:mod:`.plan`). While one
backward runs from the losses down to the first of these operations, each one's output gradient is tapped as it comes
by, and the operation's rule (:mod:`.rules`) turns it and the saved input into per-sample gradients, which are
added up and dropped. The work is that of a plain backward; beside activations, no more than one layer's gradients
are alive. What no rule covers goes to another engine, parameter by parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from gsnr_toolkit.errors import EngineError
from gsnr_toolkit.gradients.kernels.tiles import Workspace
from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.refusals import in_plain_words
from gsnr_toolkit.gradients.streaming import StreamingEngine
from gsnr_toolkit.gradients.taps.accumulate import add_parts
from gsnr_toolkit.gradients.taps.forward import Pass, cycled, refuse_random_graphs, restricted, row_chunks, run_forward
from gsnr_toolkit.gradients.taps.graph import Edge, Graph
from gsnr_toolkit.gradients.taps.plan import Plan, PlannedUse, Route, make_plan, refuse_changing_graph
from gsnr_toolkit.gradients.taps.rules.table import RULES
from gsnr_toolkit.gradients.taps.rules.use import Use
from gsnr_toolkit.gradients.taps.selfcheck import failures, largest_entry, reference_gradients
from gsnr_toolkit.gradients.taps.terms import Computed, Placed, Stored, Term, add_terms
from gsnr_toolkit.gradients.taps.views import View
from gsnr_toolkit.gradients.task import AnyMoments, Engine, GradientChunk, GradientTask
from gsnr_toolkit.gradients.vmap import choose_vmap_chunk, vmap_gradients
from gsnr_toolkit.inputs.batches import batch_length, take_rows
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.types import Batch, Params

Part: TypeAlias = tuple[Term, tuple[View, ...]]
"""Per-sample gradients of a parameter, and the views of it that they belong to."""

Receive: TypeAlias = Callable[[str, list[Part]], None]

STATES_AT_FIRST, STATES_LATER = 8, 3
"""Random states at which a model that draws random numbers is run to see whether they decide which operations run:
before the first plan, and before one for operations that were not seen before. A layer that is skipped every other
time is missed by the first eight in one case of 128."""


class TapsEngine:
    """Per-sample gradients by taps on the autograd graph.

    The plan of a graph is made once, on a few samples of the first batch, and checked there against one backward
    per sample; a parameter that fails the check is left to another engine.

    Args:
        check: Check the first batch's first two samples against one backward per sample.

    >>> from gsnr_toolkit.gradients.task import trainable_params
    >>> from gsnr_toolkit.inputs.losses import inferred_loss
    >>> model = torch.nn.Linear(2, 1)
    >>> task = GradientTask(model, trainable_params(model), inferred_loss)
    >>> (chunk,) = TapsEngine()(task, (torch.ones(3, 2), torch.ones(3)), chunk_size=8)
    >>> tuple(chunk.grads["weight"].shape)
    (3, 1, 2)
    """

    name = "taps"

    def __init__(self, *, check: bool = True) -> None:
        self._check = check
        self._plans: dict[int, Plan] = {}
        self._fallback: Engine | None = None
        self._workspace = Workspace()

    def __call__(self, task: GradientTask, batch: Batch, *, chunk_size: int) -> Iterator[GradientChunk]:
        """Stream per-sample gradients of all parameters, formed.

        Args:
            task: Model, parameters and loss.
            batch: A batch of N samples.
            chunk_size: Most samples whose gradients are alive at once.

        Yields:
            Chunks of up to ``chunk_size`` samples.
        """
        for start, rows in row_chunks(batch, chunk_size):
            grads: Params = {}

            def receive(name: str, parts: list[Part], grads: Params = grads) -> None:
                whole = as_whole(parts, tuple(task.params[name].shape))
                grads[name] = whole.samples(0, whole.count)

            losses, left = self._stream(task, rows, receive)
            if left:
                chunks = list(self._other_engine(left, rows)(left, rows, chunk_size=batch_length(rows)))
                grads.update({name: torch.cat([chunk.grads[name] for chunk in chunks]) for name in left.params})
            yield GradientChunk(start, losses, {name: grads[name] for name in task.params})

    @torch.no_grad()
    def accumulate(self, task: GradientTask, batch: Batch, moments: AnyMoments, *, chunk_size: int) -> Tensor:
        """Add the gradients of a batch's samples to moments, without forming more than a tile of them.

        Args:
            task: Model, parameters and loss.
            batch: A batch of N samples.
            moments: Where to add.
            chunk_size: Most samples that run at once.

        Returns:
            Losses, shape ``(N,)``.
        """
        losses = []
        for _, rows in row_chunks(batch, chunk_size):
            found, left = self._stream(
                task,
                rows,
                lambda name, parts: add_parts(moments, name, task.params[name], moments.count, parts, self._workspace),
            )
            if left:
                self._accumulate_left(left, rows, moments)
            moments.count += batch_length(rows)
            losses.append(found)
        moments.sort(task.params)
        return torch.cat(losses)

    def _accumulate_left(self, left: GradientTask, rows: Batch, moments: AnyMoments) -> None:
        for chunk in self._other_engine(left, rows)(left, rows, chunk_size=choose_vmap_chunk(left)):
            for name, grad in chunk.grads.items():
                add_parts(
                    moments, name, left.params[name], moments.count + chunk.start, [(Stored(grad), ())], self._workspace
                )

    def _stream(self, task: GradientTask, rows: Batch, receive: Receive) -> tuple[Tensor, GradientTask | None]:
        """Run some samples at once; hand over what rules cover, return the losses and the task that is left."""
        if batch_length(rows) == 1:
            chunk = next(loop_gradients(task, rows))
            for name, grad in chunk.grads.items():
                receive(name, [(Stored(grad), ())])
            return chunk.losses, None
        if not self._plans:
            self.prepare(task, rows)  # before the forward, so that two graphs are not alive together
        with in_plain_words():
            forward = run_forward(task, rows)
            plan = self._plan_for(task, rows, forward)
            tap(forward, plan, task.params, receive)
        return forward.losses.detach(), restricted(task, plan.other) if plan.other else None

    def _other_engine(self, left: GradientTask, rows: Batch) -> Engine:
        """One that can do what is left: vectorised if the model allows it, else one backward per sample."""
        if self._fallback is None:
            self._fallback = StreamingEngine("vmap", vmap_gradients)
            try:
                with preserved_rng():
                    next(vmap_gradients(left, take_rows(rows, 0, 2), chunk_size=2))
            except (RuntimeError, ValueError):  # ProbeError is a ValueError
                self._fallback = StreamingEngine("loop", loop_gradients)
        return self._fallback

    def prepare(self, task: GradientTask, rows: Batch) -> float:
        """Make the plan of a batch before it is run.

        Args:
            task: Model, parameters and loss.
            rows: Some samples, at least two.

        Returns:
            Share of the parameters that rules cover.

        Raises:
            EngineError: If random numbers decide which operations run.
        """
        with preserved_rng(), in_plain_words():
            refuse_random_graphs(task, take_rows(rows, 0, 2), STATES_AT_FIRST)
            self._plans.update(self._make_plan(task, rows))
        other = self.other()
        return 1 - sum(task.params[name].numel() for name in other) / task.num_params

    def other(self) -> dict[str, str]:
        """Parameters that no rule covers.

        Returns:
            Name to reason, over all graphs seen.
        """
        return {name: reason for plan in self._plans.values() for name, reason in plan.other.items()}

    def shares(self, task: GradientTask) -> dict[str, list[str]]:
        """Which parameters were served by which engine.

        Returns:
            Engine to names.
        """
        other = self.other()
        found = {self.name: [name for name in task.params if name not in other]}
        if other:
            engine = self._fallback.name if isinstance(self._fallback, StreamingEngine) else "vmap or loop"
            found[engine] = [name for name in task.params if name in other]
        return {engine: names for engine, names in found.items() if names}

    def notes(self) -> list[str]:
        """What a reader must know about how the gradients were obtained.

        Returns:
            A sentence for each reason why parameters went to another engine.
        """
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.other().items():
            by_reason.setdefault(reason, []).append(name)
        return [
            f"{len(names)} parameters, first {names[0]!r}, were measured by another engine than taps: {reason}"
            for reason, names in by_reason.items()
        ]

    def _plan_for(self, task: GradientTask, rows: Batch, forward: Pass) -> Plan:
        signature = forward.graph.signature
        if signature not in self._plans:
            refuse_random_graphs(task, rows, STATES_LATER, signature)
            with preserved_rng():
                self._plans.update(self._make_plan(task, rows))
        if signature not in self._plans:
            # the operations depend on the number of samples: look at this very batch instead
            with preserved_rng():
                self._plans.update(self._make_plan(task, rows, batch_length(rows)))
        if signature not in self._plans:
            refuse_changing_graph()
        return self._plans[signature]

    def _make_plan(self, task: GradientTask, rows: Batch, exactly: int | None = None) -> dict[int, Plan]:
        passes: list[Pass] = []

        def probe(count: int) -> Graph:
            passes.append(run_forward(task, cycled(rows, exactly or count)))
            return passes[-1].graph

        shapes = {name: tuple(param.shape) for name, param in task.params.items()}
        plan, graph = make_plan(probe, shapes, exactly)
        return {graph.signature: plan.without(self._trial(task, rows, passes[0], plan))}

    def _trial(self, task: GradientTask, rows: Batch, forward: Pass, plan: Plan) -> dict[str, str]:
        """Parameters that a rule declines, or whose gradients of two samples are not those of one backward each."""
        found: dict[str, str] = {}
        if not self._check:
            tap(forward, plan, task.params, lambda _, __: None, found)
            return found
        samples, precision = min(2, batch_length(rows)), forward.graph.coarsest()
        expected = reference_gradients(task, rows, forward.losses, forward.leaves, samples, precision)
        scale = largest_entry(grad for one in expected for grad in one.values())

        def receive(name: str, parts: list[Part]) -> None:
            whole = as_whole(parts, tuple(task.params[name].shape))
            wanted = [one[name] for one in expected]
            found.update(failures(name, whole.samples(0, samples), wanted, scale, precision))

        tap(forward, plan, task.params, receive, found)
        return found


def tap(forward: Pass, plan: Plan, params: Params, receive: Receive, declined: dict[str, str] | None = None) -> None:
    """Run the one backward, and hand each parameter's gradients over when its last use came by.

    Args:
        forward: A pass that was run.
        plan: The plan of its graph.
        params: The parameters.
        receive: Called once for each parameter in the plan, and with zeros for those that the loss does not reach.
        declined: Takes parameters for which a rule has no formula after all, with the reason.

    Raises:
        EngineError: If a rule has no formula, and ``declined`` is None.
    """
    graph, left = forward.graph, plan.expected()
    refused: dict[str, str] = {} if declined is None else declined
    waiting: dict[str, list[Part]] = {name: [] for name in left}
    at: dict[int, list[PlannedUse]] = {}
    for use in plan.uses:
        at.setdefault(use.position, []).append(use)

    @torch.no_grad()
    def meet(position: int, grads: tuple[Tensor | None, ...]) -> None:
        for use in at[position]:
            term = _term(graph, use, grads[0], forward.count)
            if term is None:
                kind = graph.names[position].removesuffix("Backward")
                refused.update({route.name: f"{kind} is used in an unusual way" for route in use.routes})
                continue
            for route in use.routes:
                waiting[route.name].append(_part(graph, forward.leaves, use.source, route, term))
                left[route.name] -= 1
                if not left[route.name]:
                    shape = tuple(params[route.name].shape)
                    receive(route.name, _join(waiting.pop(route.name), shape, route.name in plan.placed))

    if at:
        graph.pull(at, torch.ones_like(forward.losses), meet, retain=False)
    if refused and declined is None:
        raise EngineError(
            f"expected operations to be used as in the first batch, got {next(iter(refused.items()))}; "
            "pass engine='loop'"
        )
    for name in plan.unreached:
        receive(name, [(Stored(params[name].new_zeros(()).expand(forward.count, *params[name].shape)), ())])


def _term(graph: Graph, use: PlannedUse, gradient: Tensor | None, count: int) -> Term | None:
    shape, kind = graph.shape(use.source), graph.names[use.position]
    if gradient is None:
        like = graph.losses
        return Computed(lambda a, b: like.new_zeros(b - a, *shape), count, shape)
    output_shape = graph.shape((use.position, 0))
    return RULES[kind](Use(graph.nodes[use.position], use.slot, shape, output_shape, use.owner, count, gradient))


def _part(graph: Graph, leaves: Params, source: Edge, route: Route, term: Term) -> Part:
    """Bring a value's gradients to the parameter: as a view of it, or back through autograd."""
    if route.views is not None:
        return term, route.views
    leaf = leaves[route.name]

    def pulled(start: int, stop: int) -> Tensor:
        grads = term.samples(start, stop)
        with torch.enable_grad():
            (found,) = torch.autograd.grad(
                [graph.edge(source)], [leaf], grad_outputs=[grads], is_grads_batched=True, retain_graph=True
            )
        return found

    return Computed(pulled, term.count, tuple(leaf.shape)), ()


def _join(parts: list[Part], shape: tuple[int, ...], placed: bool) -> list[Part]:
    """Add up uses of one view; uses of views that overlap are added up in the parameter's own shape."""
    by_view: dict[tuple[View, ...], list[Term]] = {}
    for term, views in parts:
        by_view.setdefault(views, []).append(term)
    joined = [(add_terms(terms), views) for views, terms in by_view.items()]
    return joined if placed else [(as_whole(joined, shape), ())]


def as_whole(parts: list[Part], shape: tuple[int, ...]) -> Term:
    """One term of the parameter's own shape.

    Args:
        parts: Terms and the views they belong to.
        shape: The parameter's shape.

    Returns:
        A term.
    """
    return add_terms([Placed(term, views, shape) if views else term for term, views in parts])
