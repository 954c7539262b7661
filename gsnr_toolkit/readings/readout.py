"""The readout reading: the gradient of a logistic head on each block's class-token feature.

It takes forward passes only, serves all blocks at the same time, and applies to frozen encoders too. The paper's public
text does not say which of the two readings it uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.estimators.evidence import Evidence
from gsnr_toolkit.estimators.gsnr import group_gsnr, group_totals
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.groups import Group
from gsnr_toolkit.inputs.options import ProbeOptions
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.moments.shards import MAX_SHARDS, ShardCollector, ShardSummary
from gsnr_toolkit.moments.sketches import RowPlan, plan_rows
from gsnr_toolkit.readings.features import BlockFeatures, collect_features
from gsnr_toolkit.readings.heads import fitted_heads, head_drift, head_gradients, zero_heads
from gsnr_toolkit.readings.radii import measure_at_crossings
from gsnr_toolkit.setup.batch_guards import check_count
from gsnr_toolkit.setup.mini_batches import MIN_BATCHES, PREFERRED_BATCHES
from gsnr_toolkit.setup.prepare import Setup
from gsnr_toolkit.support.progress import stage
from gsnr_toolkit.types import Batch

_UNBOUNDED = 2**40  # bytes: the gradients of heads are small, so their rows are never sketched


def gather_readout(setup: Setup, *, progress: bool) -> Evidence:
    """Collect block features and form the heads' per-sample gradients.

    Args:
        setup: The complete setup; its batches carry binary labels, and the size of the first one is SAM's.
        progress: Show a progress bar.

    Returns:
        The evidence.

    Raises:
        ProbeError: If the Lanczos radius is asked for, or there are too few samples to fit heads.
    """
    options, task = setup.options, setup.task
    if options.lipschitz:
        raise ProbeError("expected lipschitz=False with layerwise='readout', got True; leave it out")
    batches = _FirstSize(setup.batches)
    with stage("block features", setup.count, show=progress) as advance:
        data = collect_features(task.model, batches, lambda batch: task.losses(task.params, batch), advance)
    losses, labels = data.losses, data.labels
    heads = zero_heads(data)
    if options.readout_head == "fitted":
        # At its own optimum the mean gradient of a head is zero, so heads are fitted on the other half.
        first, data = split_halves(data)
        heads = fitted_heads(first)
    check_count(len(data.labels))
    gradients = head_gradients(data, heads)
    depths = {label: depth for depth, label in enumerate(gradients, 1)}
    plan, moments, shards = _collect(gradients, depths)
    totals = group_totals(moments, plan)
    size = _mini_batch_size(batches.first, len(data.labels), options)
    drift = None
    if setup.with_cor:
        signal_sq = group_gsnr(totals, shards).mean_sqnorm
        drift = measure_at_crossings(lambda at: head_drift(data, heads, np.array(at), size), signal_sq, options)
    note = f"readout heads: {options.readout_head}; each is perturbed along its own gradient"
    return Evidence(
        members=plan.members,
        depths=tuple(depths[name] for name in plan.group_names),
        sizes=tuple(gradients[name].shape[1] for name in plan.group_names),
        moments=moments,
        totals=totals,
        shards=shards,
        losses=losses,
        labels=labels,
        coverage=_coverage(gradients),
        batch_size=size if setup.with_cor else None,
        drift=drift,
        notes=(*setup.notes, note),
        settings={"perturb": "group", "groups": "block"},
    )


def _collect(gradients: dict[str, torch.Tensor], depths: dict[str, int]) -> tuple[RowPlan, Moments, ShardSummary]:
    """Moments of all heads' gradients, and their shards."""
    samples = len(next(iter(gradients.values())))
    groups = {label: Group(label, depth) for label, depth in depths.items()}
    rows = {label: values[0] for label, values in gradients.items()}
    plan = plan_rows(rows, groups, num_rows=MAX_SHARDS + 1, budget=_UNBOUNDED)
    collector, moments = ShardCollector(plan, size=-(-samples // MAX_SHARDS)), Moments()
    for start in range(0, samples, collector.size):
        part = {label: values[start : start + collector.size] for label, values in gradients.items()}
        shard = Moments.from_samples(part)
        collector.add(shard)
        moments.absorb(shard)
    return plan, moments, collector.summary()


def _mini_batch_size(first: int, samples: int, options: ProbeOptions) -> int:
    """SAM's mini-batch size: that of the first batch, lowered until there are enough mini-batches."""
    wanted = MIN_BATCHES if options.batch_size else PREFERRED_BATCHES
    return max(1, min(first, samples // wanted))


class _FirstSize:
    """Passes batches on and remembers the size of the first."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self.first = 1

    def __iter__(self) -> Iterator[Batch]:
        for index, batch in enumerate(self._batches):
            if index == 0:
                self.first = batch_length(batch)
            yield batch


def split_halves(data: BlockFeatures) -> tuple[BlockFeatures, BlockFeatures]:
    """Split samples into two halves of the same class frequencies, alternating within each class.

    Args:
        data: Features and labels.

    Returns:
        The half to fit heads on, and the half to measure on, each in the original order.

    Raises:
        ProbeError: If a class has fewer than two samples.
    """
    counts = [int((data.labels == label).sum()) for label in (0, 1)]
    if min(counts) < 2:
        raise ProbeError(
            f"expected at least 2 samples of each class to fit readout heads on one half, got {counts[0]} of class 0 "
            f"and {counts[1]} of class 1; give more samples, or use readout_head='zero'"
        )
    rank = np.zeros(len(data.labels), dtype=np.int64)
    for label in (0, 1):
        rank[data.labels == label] = np.arange((data.labels == label).sum())
    return _rows(data, rank % 2 == 0), _rows(data, rank % 2 == 1)


def _rows(data: BlockFeatures, keep: NDArray[np.bool_]) -> BlockFeatures:
    features = {label: x[keep] for label, x in data.features.items()}
    return BlockFeatures(features, data.labels[keep], data.losses[keep])


def _coverage(grads: dict[str, torch.Tensor]) -> dict[str, object]:
    total = sum(grad.shape[1] for grad in grads.values())
    sentence = f"{len(grads)} readout heads with {total:,} weights, each in exactly one group; closed form"
    return {
        "parameters": total,
        "tensors": len(grads),
        "groups": len(grads),
        "engine": {"closed form": total},
        "share": 1.0,
        "sentence": sentence,
    }
