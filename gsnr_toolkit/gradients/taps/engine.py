"""The taps engine: one ordinary forward and one backward that forms no weight gradient.

The engine follows each parameter through the autograd graph to the operations that use it (:mod:`.plan`). It then runs
one backward from the losses down to the first of these operations, and taps the output gradient of each one on the way
(:mod:`.tap`). The operation's rule (:mod:`.rules`) turns output gradient and saved input into per-sample gradients,
which are summed and dropped. The cost is that of a plain backward; besides activations, only one layer's gradients are
in memory at a time. Parameters without a rule go to another engine, one by one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gsnr_toolkit.errors import EngineError
from gsnr_toolkit.gradients.kernels.tiles import Workspace
from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.refusals import in_plain_words
from gsnr_toolkit.gradients.streaming import StreamingEngine
from gsnr_toolkit.gradients.taps.accumulate import add_parts
from gsnr_toolkit.gradients.taps.forward import Pass, cycled, refuse_random_graphs, restricted, row_chunks, run_forward
from gsnr_toolkit.gradients.taps.graph import Graph
from gsnr_toolkit.gradients.taps.plan import Plan, make_plan, refuse_changing_graph
from gsnr_toolkit.gradients.taps.selfcheck import failures, largest_entry, reference_gradients
from gsnr_toolkit.gradients.taps.tap import Receive, as_whole, tap
from gsnr_toolkit.gradients.taps.terms import Part, Stored
from gsnr_toolkit.gradients.task import AnyMoments, Engine, GradientChunk, GradientTask
from gsnr_toolkit.gradients.vmap import choose_vmap_chunk, vmap_gradients
from gsnr_toolkit.inputs.batches import batch_length, take_rows
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.types import Batch, Params

STATES_AT_FIRST, STATES_LATER = 8, 3
"""Random states at which a model that draws random numbers is run, to see whether they decide which operations run:
before the first plan, and before a plan for operations not seen before. Eight states miss a layer that is skipped every
other time in one case of 128."""


class TapsEngine:
    """Per-sample gradients by taps on the autograd graph.

    A graph is planned once, on a few samples of the first batch. The plan is checked on two of them against one
    backward per sample; a parameter that fails the check goes to another engine.

    Args:
        check: Whether to check plans.

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
        """Form the per-sample gradients of a batch, as :class:`~gsnr_toolkit.gradients.task.Engine` says."""
        for start, rows in row_chunks(batch, chunk_size):
            grads: Params = {}

            def receive(name: str, parts: list[Part], grads: Params = grads) -> None:
                grads[name] = as_whole(parts, tuple(task.params[name].shape)).samples(0, parts[0].term.count)

            losses, left = self._stream(task, rows, receive)
            if left:
                chunks = list(self._other_engine(left, rows)(left, rows, chunk_size=batch_length(rows)))
                grads.update({name: torch.cat([chunk.grads[name] for chunk in chunks]) for name in left.params})
            yield GradientChunk(start, losses, {name: grads[name] for name in task.params})

    @torch.no_grad()
    def accumulate(self, task: GradientTask, batch: Batch, moments: AnyMoments, *, chunk_size: int) -> Tensor:
        """Add a batch's gradients to moments, forming at most a tile of them at a time."""
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
            seen = moments.count + chunk.start
            for name, grad in chunk.grads.items():
                add_parts(moments, name, left.params[name], seen, [Part(Stored(grad), ())], self._workspace)

    def _stream(self, task: GradientTask, rows: Batch, receive: Receive) -> tuple[Tensor, GradientTask | None]:
        """Run some samples at once; pass on what rules cover, and return the losses and the task that is left."""
        if batch_length(rows) == 1:
            chunk = next(loop_gradients(task, rows))
            for name, grad in chunk.grads.items():
                receive(name, [Part(Stored(grad), ())])
            return chunk.losses, None
        if not self._plans:
            self.prepare(task, rows)  # before the forward, so that two graphs are never in memory together
        with in_plain_words():
            forward = run_forward(task, rows)
            plan = self._plan_for(task, rows, forward)
            declined: dict[str, str] = {}
            tap(forward, plan, task.params, receive, declined)
            if declined:
                raise EngineError(
                    "expected operations to be used as in the first batch, got "
                    f"{next(iter(declined.items()))}; pass engine='loop'"
                )
        return forward.losses.detach(), restricted(task, plan.other) if plan.other else None

    def _other_engine(self, left: GradientTask, rows: Batch) -> Engine:
        """Return an engine for the task that is left: vmap if it can run the model, else one backward per sample."""
        if self._fallback is None:
            self._fallback = StreamingEngine("vmap", vmap_gradients)
            try:
                with preserved_rng():
                    next(vmap_gradients(left, take_rows(rows, 0, 2), chunk_size=2))
            except (RuntimeError, ValueError):  # ProbeError is a ValueError
                self._fallback = StreamingEngine("loop", loop_gradients)
        return self._fallback

    def prepare(self, task: GradientTask, rows: Batch) -> float:
        """Plan the graph of a batch without measuring it.

        Args:
            task: Model, parameters and loss.
            rows: Some samples, at least two.

        Returns:
            Share of the scalar parameters that rules cover.

        Raises:
            EngineError: If random numbers decide which operations run.
        """
        with preserved_rng(), in_plain_words():
            refuse_random_graphs(task, take_rows(rows, 0, 2), STATES_AT_FIRST)
            self._plans.update(self._make_plan(task, rows))
        other = self.other()
        return 1 - sum(task.params[name].numel() for name in other) / task.num_params

    def other(self) -> dict[str, str]:
        """Return the parameters that no rule covers, over all graphs so far: name to reason."""
        return {name: reason for plan in self._plans.values() for name, reason in plan.other.items()}

    def shares(self, task: GradientTask) -> dict[str, list[str]]:
        """Return the names of the parameters that each engine served."""
        other = self.other()
        found = {self.name: [name for name in task.params if name not in other]}
        if other:
            engine = self._fallback.name if isinstance(self._fallback, StreamingEngine) else "vmap or loop"
            found[engine] = [name for name in task.params if name in other]
        return {engine: names for engine, names in found.items() if names}

    def notes(self) -> list[str]:
        """Return one sentence for each reason why parameters went to another engine."""
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
            # the operations depend on the number of samples: plan on this batch itself
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
        """Find parameters that a rule declines, or whose gradients of two samples fail the check."""
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
