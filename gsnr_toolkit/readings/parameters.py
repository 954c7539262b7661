"""The parameters reading: the gradient with respect to each block's own parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.batch_gradient import BatchGradient
from gsnr_toolkit.gradients.select import MEAN_ONLY, choose_chunk, make_engine
from gsnr_toolkit.gradients.task import AnyMoments
from gsnr_toolkit.inputs.batches import batch_length, take_rows
from gsnr_toolkit.inputs.losses import split_inputs
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.moments.shards import MAX_SHARDS, ShardCollector
from gsnr_toolkit.moments.sketches import plan_rows
from gsnr_toolkit.readings.drift import DriftMeasurement, Known, measure_drift
from gsnr_toolkit.readings.evidence import Evidence
from gsnr_toolkit.readings.hessian import largest_hessian_eigenvalue
from gsnr_toolkit.readings.moment_pass import MomentPass
from gsnr_toolkit.setup.distributed import current_ranks
from gsnr_toolkit.setup.engine_choice import describe_setup
from gsnr_toolkit.setup.mini_batches import full_batches
from gsnr_toolkit.setup.prepare import Setup
from gsnr_toolkit.support.progress import stage
from gsnr_toolkit.types import Batch, Floats


def gather_parameters(
    setup: Setup, batches: Iterable[Batch], *, count: int | None, with_cor: bool, progress: bool
) -> Evidence:
    """Stream per-sample gradients, and make the drift ready to be measured.

    Args:
        setup: What to measure.
        batches: SAM mini-batches in a list if COR is asked for; else any batches, seen once.
        count: Number of samples, if known.
        with_cor: Whether COR is asked for.
        progress: Show progress bars.

    Returns:
        Evidence for the estimators.
    """
    options = setup.options
    usable = full_batches(batches) if with_cor and isinstance(batches, list) else []
    radii = len(options.grid) * (2 if options.perturb == "group" else 1)
    num_rows = max(MAX_SHARDS + 1, len(usable) * (1 + radii))
    plan = plan_rows(setup.task.params, setup.groups, num_rows=num_rows, seed=options.seed)
    collector = ShardCollector(plan, size=1 if count is None else -(-count // MAX_SHARDS))
    seen = LabelWatch(batches)
    with stage("per-sample gradients", count, show=progress) as advance:
        new = Moments if options.detail == "parameter" else GroupMoments
        spare = make_engine("loop") if options.engine == "auto" else None
        taking = MomentPass(setup.task, setup.engine, setup.chunk_size, options.seed, new, spare)
        moments, losses = taking.run(seen, collector, advance, current_ranks())

    known: Known | None = {} if plan.exact else None
    few = take_rows(usable[0], 0, 2) if usable else None
    room = None if few is None else choose_chunk(MEAN_ONLY, setup.task, few, options.memory)
    gradient = BatchGradient(setup.task, room)

    def drift(at: Sequence[float]) -> DriftMeasurement:
        scopes = 1 + (len(plan.group_names) if options.perturb == "group" else 0)
        work = sum(batch_length(batch) for batch in usable) * (1 + len(at) * scopes)
        with stage("gradients after SAM's ascent", work, show=progress) as advance:
            return measure_drift(
                gradient, usable, at, plan, perturb=options.perturb, seed=options.seed, advance=advance, known=known
            )

    depth = {group.name: group.depth for group in setup.groups.values()}
    return Evidence(
        plan=plan,
        depths=tuple(depth[name] for name in plan.group_names),
        moments=moments,
        shards=collector.summary(),
        losses=losses,
        labels=seen.labels,
        coverage=describe_setup(setup, taking.shares()),
        batch_size=batch_length(usable[0]) if usable else None,
        drift=drift if usable else None,
        lipschitz=(lambda: largest_hessian_eigenvalue(gradient, usable, options.seed))
        if usable and options.lipschitz
        else None,
        notes=(*setup.notes, *taking.notes(), *_notes(moments, exact=plan.exact)),
    )


def _notes(moments: AnyMoments, *, exact: bool) -> list[str]:
    notes = []
    silent = [name for name in moments.mean if moments.is_zero(name)]
    if silent:
        notes.append(
            f"{len(silent)} of {len(moments.mean)} parameters have a gradient of exactly zero for every sample, first "
            f"{silent[0]!r}: the loss does not reach them; they count towards their group"
        )
    if not exact:
        notes.append(
            "gradients of several batches did not fit the memory set aside for them: intervals and drift norms come "
            "from unbiased random sketches; GSNR's point estimates are exact"
        )
    return notes


class LabelWatch:
    """Passes batches on and remembers their labels.

    Attributes:
        labels: One number per sample; None when some batch had no such labels.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self._seen: list[Floats] | None = []

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
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
