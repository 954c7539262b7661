"""The readout reading: the gradient of a logistic head on each block's class-token feature.

Forward passes only, all blocks at once, frozen encoders too. Which reading the paper takes is not public.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch

from gsnr_toolkit.estimators.rows import plan_rows
from gsnr_toolkit.estimators.shards import MAX_SHARDS, ShardCollector
from gsnr_toolkit.groups import Group
from gsnr_toolkit.measure import DriftMeasurement
from gsnr_toolkit.moments import Moments
from gsnr_toolkit.prepare import MIN_BATCHES, PREFERRED_BATCHES, Setup
from gsnr_toolkit.progress import stage
from gsnr_toolkit.readings.evidence import Evidence
from gsnr_toolkit.readings.features import BlockFeatures, collect_features
from gsnr_toolkit.readings.heads import fitted_heads, head_drift, head_gradients, head_losses, zero_heads
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
    """
    with stage("block features", count, show=progress) as advance:
        data = collect_features(setup.task.model, batches, lambda b: setup.task.losses(setup.task.params, b), advance)
    fitted = setup.options.readout_head == "fitted"
    heads = fitted_heads(_rows(data, slice(0, None, 2))) if fitted else zero_heads(data)
    data = _rows(data, slice(1, None, 2)) if fitted else data
    samples = len(data.labels)
    grads = head_gradients(data, heads)
    groups = {label: Group(label, depth) for depth, label in enumerate(grads, 1)}
    plan = plan_rows({label: g[0] for label, g in grads.items()}, groups, num_rows=MAX_SHARDS + 1, budget=2**40)
    collector = ShardCollector(plan, size=-(-samples // MAX_SHARDS))
    moments = Moments()
    for start in range(0, samples, collector.size):
        shard = Moments.from_samples({label: g[start : start + collector.size] for label, g in grads.items()})
        collector.add(shard)
        moments.absorb(shard)
    size = setup.options.batch_size or max(1, min(32, samples // PREFERRED_BATCHES))
    size = min(size, samples // MIN_BATCHES)

    def drift(at: Sequence[float]) -> DriftMeasurement:
        return head_drift(data, heads, np.array(at), size)

    note = f"readout heads: {setup.options.readout_head}; each is perturbed along its own gradient"
    return Evidence(
        plan=plan,
        depths=tuple(groups[name].depth for name in plan.group_names),
        moments=moments,
        shards=collector.summary(),
        losses=head_losses(data, heads),
        labels=data.labels,
        coverage=_coverage(grads),
        batch_size=size if with_cor else None,
        drift=drift if with_cor else None,
        notes=(*setup.notes, note),
    )


def _rows(data: BlockFeatures, rows: slice) -> BlockFeatures:
    return replace(data, features={k: x[rows] for k, x in data.features.items()}, labels=data.labels[rows])


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
