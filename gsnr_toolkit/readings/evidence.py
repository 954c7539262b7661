"""What a reading hands over: moments, shards and drift, whatever the gradients were of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gsnr_toolkit.gradients.task import AnyMoments
from gsnr_toolkit.moments.shards import ShardSummary
from gsnr_toolkit.moments.sketches import RowPlan
from gsnr_toolkit.readings.drift import DriftMeasurement
from gsnr_toolkit.types import Floats


@dataclass(frozen=True)
class Evidence:
    """Everything the estimators need about one model at one moment.

    Attributes:
        plan: Groups and how gradients were kept.
        depths: Depth of each of the plan's groups.
        moments: Moments of all per-sample gradients.
        shards: Sums over shards of the same samples.
        losses: The model's own losses, shape ``(n,)``.
        labels: Labels of all samples, where they could be read.
        coverage: The coverage statement.
        batch_size: SAM's mini-batch size; None where COR was not asked for.
        drift: Measures the drift at given radii; None where COR was not asked for.
        lipschitz: Measures ``lambda_max(|H|)``; None where not asked for.
        notes: What a reader must know besides.
        settings: Options that this reading fixes by itself.
    """

    plan: RowPlan
    depths: tuple[int, ...]
    moments: AnyMoments
    shards: ShardSummary
    losses: Floats
    labels: Floats | None
    coverage: dict[str, Any]
    batch_size: int | None = None
    drift: Callable[[Sequence[float]], DriftMeasurement] | None = None
    lipschitz: Callable[[], float] | None = None
    notes: tuple[str, ...] = field(default=())
    settings: dict[str, Any] = field(default_factory=dict)
