"""What a reading measured about one model at one moment: plain data, before anything is estimated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gsnr_toolkit.estimators.cor import DriftGrams
from gsnr_toolkit.estimators.gsnr import GroupTotals
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.moments.shards import ShardSummary
from gsnr_toolkit.types import Floats


@dataclass(frozen=True)
class DriftMeasurement:
    """Gradients of K mini-batches before and after SAM's ascent step, reduced to inner products.

    Attributes:
        grams: Inner products.
        losses: Mean loss of each mini-batch, shape ``(K,)``.
        norms: Gradient norm of each mini-batch, shape ``(K,)``.
    """

    grams: DriftGrams
    losses: Floats
    norms: Floats


@dataclass(frozen=True)
class Evidence:
    """Everything that was measured; the estimators need nothing else. G groups in depth order.

    Attributes:
        members: Group name to the names of its parameters.
        depths: Depth of each group.
        sizes: Number of scalar parameters of each group.
        moments: Moments of all per-sample gradients.
        totals: The same moments, summed over each group.
        shards: Sums over shards of the same samples.
        losses: Loss of each sample, shape ``(n,)``.
        labels: Label of each sample, if labels could be read.
        coverage: Which engine served how many parameters.
        batch_size: SAM's mini-batch size; None without COR.
        drift: Gradients before and after SAM's ascent; None without COR.
        hessian_eigenvalue: Largest absolute eigenvalue of the Hessian; None unless asked for.
        notes: Notes for the report.
        settings: Options that the reading itself fixes.
    """

    members: Mapping[str, tuple[str, ...]]
    depths: tuple[int, ...]
    sizes: tuple[int, ...]
    moments: Moments | GroupMoments
    totals: GroupTotals
    shards: ShardSummary
    losses: Floats
    labels: Floats | None
    coverage: dict[str, Any]
    batch_size: int | None = None
    drift: DriftMeasurement | None = None
    hessian_eigenvalue: float | None = None
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
