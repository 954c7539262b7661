"""The parameters reading: the gradient with respect to each block's own parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.estimators.evidence import DriftMeasurement, Evidence
from gsnr_toolkit.estimators.gsnr import group_gsnr, group_totals
from gsnr_toolkit.gradients.batch_gradient import BatchGradient
from gsnr_toolkit.gradients.select import MEAN_ONLY, choose_chunk, make_engine
from gsnr_toolkit.inputs.batches import batch_length, take_rows
from gsnr_toolkit.inputs.losses import split_inputs
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.moments.shards import MAX_SHARDS, ShardCollector
from gsnr_toolkit.moments.sketches import RowPlan, plan_rows
from gsnr_toolkit.readings.drift import Known, measure_drift
from gsnr_toolkit.readings.hessian import largest_hessian_eigenvalue
from gsnr_toolkit.readings.moment_pass import MomentPass
from gsnr_toolkit.readings.radii import measure_at_crossings
from gsnr_toolkit.readings.silent import silent_notes
from gsnr_toolkit.setup.distributed import current_ranks
from gsnr_toolkit.setup.engine_choice import describe_coverage
from gsnr_toolkit.setup.mini_batches import full_batches
from gsnr_toolkit.support.progress import stage
from gsnr_toolkit.types import Batch, Floats

if TYPE_CHECKING:
    from gsnr_toolkit.gradients.task import AnyMoments, GradientTask
    from gsnr_toolkit.setup.prepare import Setup


def gather_parameters(setup: Setup, *, progress: bool) -> Evidence:
    """Stream per-sample gradients, then measure the drift under SAM's ascent if COR is asked for.

    Args:
        setup: The complete setup.
        progress: Show progress bars.

    Returns:
        The evidence.
    """
    options = setup.options
    usable = full_batches(setup.batches) if setup.with_cor else []
    plan = _plan(setup, len(usable))
    collector = ShardCollector(plan, size=1 if setup.count is None else -(-setup.count // MAX_SHARDS))
    labels = LabelWatch(setup.batches)
    spare = make_engine("loop") if options.engine == "auto" else None
    new = Moments if options.detail == "parameter" else GroupMoments
    samples = MomentPass(setup.task, setup.engine, setup.chunk_size, options.seed, new, spare)
    with stage("per-sample gradients", setup.count, show=progress) as advance:
        moments, losses = samples.run(labels, collector, advance, current_ranks())
    totals, shards = group_totals(moments, plan), collector.summary()
    drift = eigenvalue = None
    if usable:
        batches = _MiniBatches(setup, usable, plan, progress=progress)
        drift = measure_at_crossings(batches.drift, group_gsnr(totals, shards).mean_sqnorm, options)
        eigenvalue = batches.hessian_eigenvalue() if options.lipschitz else None
    depth = {group.name: group.depth for group in setup.groups.values()}
    return Evidence(
        members=plan.members,
        depths=tuple(depth[name] for name in plan.group_names),
        sizes=tuple(sum(moments.mean[name].numel() for name in plan.members[group]) for group in plan.group_names),
        moments=moments,
        totals=totals,
        shards=shards,
        losses=losses,
        labels=labels.labels,
        coverage=describe_coverage(setup.task, setup.groups, samples.shares()),
        batch_size=batch_length(usable[0]) if usable else None,
        drift=drift,
        hessian_eigenvalue=eigenvalue,
        notes=(*setup.notes, *samples.notes(), *_notes(setup.task, moments, labels.rows, exact=plan.exact)),
    )


def _plan(setup: Setup, num_batches: int) -> RowPlan:
    """Decide how gradients are kept: shard means, or the gradients of all mini-batches at all radii."""
    radii = len(setup.options.grid) * (2 if setup.options.perturb == "group" else 1)
    num_rows = max(MAX_SHARDS + 1, num_batches * (1 + radii))
    return plan_rows(setup.task.params, setup.groups, num_rows=num_rows, seed=setup.options.seed)


class _MiniBatches:
    """SAM's mini-batches, and what is measured on their mean gradients."""

    def __init__(self, setup: Setup, batches: list[Batch], plan: RowPlan, *, progress: bool) -> None:
        self._batches, self._plan, self._options, self._progress = batches, plan, setup.options, progress
        chunk_size = choose_chunk(MEAN_ONLY, setup.task, take_rows(batches[0], 0, 2), setup.options.memory)
        self._gradient = BatchGradient(setup.task, chunk_size)
        # Refined radii need the same gradients at rho = 0 again. They are kept only if all rows fit the budget anyway.
        self._known: Known | None = {} if plan.exact else None

    def drift(self, radii: Sequence[float]) -> DriftMeasurement:
        """Measure gradients before and after SAM's ascent at each radius."""
        options = self._options
        scopes = 1 + (len(self._plan.group_names) if options.perturb == "group" else 0)
        work = sum(batch_length(batch) for batch in self._batches) * (1 + len(radii) * scopes)
        with stage("gradients after SAM's ascent", work, show=self._progress) as advance:
            return measure_drift(
                self._gradient,
                self._batches,
                radii,
                self._plan,
                perturb=options.perturb,
                seed=options.seed,
                advance=advance,
                known=self._known,
            )

    def hessian_eigenvalue(self) -> float:
        """Measure the largest absolute eigenvalue of the Hessian."""
        with stage("largest curvature (Lanczos)", None, show=self._progress):
            return largest_hessian_eigenvalue(self._gradient, self._batches, self._options.seed)


def _notes(task: GradientTask, moments: AnyMoments, rows: Batch, *, exact: bool) -> list[str]:
    notes = silent_notes(task, moments, rows)
    if not exact:
        notes.append(
            "gradients of several batches did not fit the memory set aside for them: intervals and drift norms come "
            "from unbiased random sketches; GSNR's point estimates are exact"
        )
    return notes


class LabelWatch:
    """Passes batches on and remembers their labels.

    Attributes:
        rows: The first two samples; None before the first batch.
        labels: One number per sample; None if some batch had no such labels.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self._seen: list[Floats] | None = []
        self.rows: Batch = None

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            self.rows = take_rows(batch, 0, 2) if self.rows is None else self.rows
            self._see(batch)
            yield batch

    def _see(self, batch: Batch) -> None:
        try:
            labels = split_inputs(batch)[1]
        except ProbeError:
            self._seen = None
            return
        if self._seen is not None and labels.numel() == batch_length(batch):
            self._seen.append(labels.flatten().double().cpu().numpy())
        else:
            self._seen = None

    @property
    def labels(self) -> Floats | None:
        """Labels of all samples, shape ``(n,)``."""
        return np.concatenate(self._seen) if self._seen else None
