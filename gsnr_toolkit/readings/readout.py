"""The readout reading: the gradient of a logistic head on each block's class-token feature.

Forward passes only, all blocks at once, frozen encoders too. Which reading the paper takes is not public.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.groups import Group
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.moments.shards import MAX_SHARDS, ShardCollector
from gsnr_toolkit.moments.sketches import plan_rows
from gsnr_toolkit.readings.drift import DriftMeasurement
from gsnr_toolkit.readings.evidence import Evidence
from gsnr_toolkit.readings.features import BlockFeatures, collect_features
from gsnr_toolkit.readings.heads import fitted_heads, head_drift, head_gradients, zero_heads
from gsnr_toolkit.setup.batch_guards import check_count
from gsnr_toolkit.setup.mini_batches import MIN_BATCHES, PREFERRED_BATCHES
from gsnr_toolkit.setup.prepare import Setup
from gsnr_toolkit.support.progress import stage
from gsnr_toolkit.types import Batch


def gather_readout(
    setup: Setup, batches: Iterable[Batch], *, count: int | None, with_cor: bool, progress: bool
) -> Evidence:
    """Collect block features and form the heads' per-sample gradients.

    Args:
        setup: What to measure.
        batches: Batches with binary labels; the first one's size is SAM's.
        count: Number of samples, if known.
        with_cor: Whether COR is asked for.
        progress: Show a progress bar.

    Returns:
        Evidence for the estimators.

    Raises:
        ProbeError: If the Lanczos radius is asked for, or samples are too few to fit heads.
    """
    if setup.options.lipschitz:
        raise ProbeError("expected lipschitz=False with layerwise='readout': heads have closed forms; leave it out")
    sizes = _FirstSize(batches)
    with stage("block features", count, show=progress) as advance:
        data = collect_features(setup.task.model, sizes, lambda b: setup.task.losses(setup.task.params, b), advance)
    losses, labels = data.losses, data.labels
    fitted = setup.options.readout_head == "fitted"
    heads = zero_heads(data)
    if fitted:
        first, data = split_halves(data)
        heads = fitted_heads(first)
    samples = len(data.labels)
    check_count(samples)
    grads = head_gradients(data, heads)
    groups = {label: Group(label, depth) for depth, label in enumerate(grads, 1)}
    plan = plan_rows({label: g[0] for label, g in grads.items()}, groups, num_rows=MAX_SHARDS + 1, budget=2**40)
    collector = ShardCollector(plan, size=-(-samples // MAX_SHARDS))
    moments = Moments()
    for start in range(0, samples, collector.size):
        shard = Moments.from_samples({label: g[start : start + collector.size] for label, g in grads.items()})
        collector.add(shard)
        moments.absorb(shard)
    size = max(1, min(sizes.first, samples // (MIN_BATCHES if setup.options.batch_size else PREFERRED_BATCHES)))

    def drift(at: Sequence[float]) -> DriftMeasurement:
        return head_drift(data, heads, np.array(at), size)

    note = f"readout heads: {setup.options.readout_head}; each is perturbed along its own gradient"
    return Evidence(
        plan=plan,
        depths=tuple(groups[name].depth for name in plan.group_names),
        moments=moments,
        shards=collector.summary(),
        losses=losses,
        labels=labels,
        coverage=_coverage(grads),
        batch_size=size if with_cor else None,
        drift=drift if with_cor else None,
        notes=(*setup.notes, note),
        settings={"perturb": "group", "groups": "block"},
    )


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
