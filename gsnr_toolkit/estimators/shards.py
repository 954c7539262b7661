"""What the jackknife needs to know about consecutive blocks of samples, kept small while they stream by."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gsnr_toolkit.estimators.rows import RowPlan, gram
from gsnr_toolkit.estimators.uncertainty import Floats
from gsnr_toolkit.moments import Moments

MAX_SHARDS = 16


@dataclass(frozen=True)
class ShardSummary:
    """Per-shard sums from which every delete-one-shard GSNR follows; G groups, then the whole model.

    Attributes:
        counts: Samples per shard, shape ``(S,)``.
        within: Sum of squares around the shard's own mean, shape ``(S, G + 1)``.
        gram: Inner products of shard means, shape ``(G + 1, S, S)``.
    """

    counts: Floats
    within: Floats
    gram: Floats


@dataclass
class ShardCollector:
    """Collects finished shards; past :data:`MAX_SHARDS` neighbours are joined pairwise.

    Attributes:
        plan: How shard means are kept.
        size: Samples per shard at present.
    """

    plan: RowPlan
    size: int = 1
    _counts: list[int] = field(default_factory=list)
    _within: list[np.ndarray] = field(default_factory=list)
    _rows: list[list[Tensor]] = field(default_factory=list)

    def add(self, shard: Moments) -> None:
        """Take in the moments of one shard."""
        traces = [
            sum(float(shard.m2[name].sum(dtype=torch.float64)) for name in self.plan.members[group])
            for group in self.plan.group_names
        ]
        self._counts.append(shard.count)
        self._within.append(np.array(traces))
        self._rows.append(self.plan.project(shard.mean))
        if len(self._counts) > MAX_SHARDS:
            self._join_neighbours()

    def _join_neighbours(self) -> None:
        counts, within, rows = self._counts, self._within, self._rows
        self._counts, self._within, self._rows = [], [], []
        for i in range(0, len(counts), 2):
            if i + 1 == len(counts):
                joined = (counts[i], within[i], rows[i])
            else:
                joined = _join(*zip(counts[i : i + 2], within[i : i + 2], rows[i : i + 2], strict=True))
            self._counts.append(joined[0])
            self._within.append(joined[1])
            self._rows.append(joined[2])
        self.size *= 2

    def summary(self) -> ShardSummary:
        """Everything seen so far, the whole model appended as the last group.

        Returns:
            Sums over S shards.
        """
        grams = [gram(torch.stack(column)).numpy() for column in zip(*self._rows, strict=True)]
        grams.append(np.sum(grams, axis=0))
        within = np.stack(self._within)
        within = np.concatenate([within, within.sum(1, keepdims=True)], axis=1)
        return ShardSummary(np.array(self._counts, dtype=np.float64), within, np.stack(grams))


def _join(
    first: tuple[int, np.ndarray, list[Tensor]], second: tuple[int, np.ndarray, list[Tensor]]
) -> tuple[int, np.ndarray, list[Tensor]]:
    """Merge two neighbouring shards (Chan et al., on rows instead of moments)."""
    count = first[0] + second[0]
    factor = first[0] * second[0] / count
    gap = np.array([float((b - a).double().square().sum()) for a, b in zip(first[2], second[2], strict=True)])
    rows = [a + (b - a) * (second[0] / count) for a, b in zip(first[2], second[2], strict=True)]
    return count, first[1] + second[1] + factor * gap, rows
