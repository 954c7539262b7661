"""Summaries of consecutive blocks of samples (shards): all that the jackknife needs, in little memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.moments.sketches import RowPlan, gram
from gsnr_toolkit.types import Floats, Params

MAX_SHARDS = 16
"""Number of shards that a pass aims for; a collector holds one more at most."""


@dataclass(frozen=True)
class ShardSummary:
    """Sums per shard that give every delete-one-shard GSNR; G groups, then the whole model.

    Attributes:
        counts: Samples per shard, shape ``(S,)``.
        within: Sum of squared deviations from the shard's own mean, shape ``(S, G + 1)``.
        gram: Inner products of shard means, shape ``(G + 1, S, S)``.
        sqnorm: Squared norms of shard means, shape ``(S, G + 1)``; exact where the diagonal of ``gram`` is sketched.
    """

    counts: Floats
    within: Floats
    gram: Floats
    sqnorm: Floats


@dataclass(frozen=True)
class _Shard:
    """One block of samples: its size and, per group, its spread, squared mean and mean as a row."""

    count: int
    within: Floats
    sqnorm: Floats
    rows: list[Tensor]

    def joined(self, other: _Shard) -> _Shard:
        """Merge with the next block (Chan et al., on rows instead of moments)."""
        count = self.count + other.count
        pairs = list(zip(self.rows, other.rows, strict=True))
        cross = np.array([float(a.double() @ b.double()) for a, b in pairs])
        gap = self.sqnorm + other.sqnorm - 2 * cross
        within = self.within + other.within + gap * (self.count * other.count / count)
        mine, theirs = self.count / count, other.count / count
        sqnorm = mine**2 * self.sqnorm + theirs**2 * other.sqnorm + 2 * mine * theirs * cross
        return _Shard(count, within, sqnorm, [a + (b - a) * theirs for a, b in pairs])


@dataclass
class ShardCollector:
    """Collect finished shards, and join neighbours in pairs once there are more than about :data:`MAX_SHARDS`.

    Attributes:
        plan: How shard means become rows.
        size: Current number of samples per shard.
    """

    plan: RowPlan
    size: int = 1
    _shards: list[_Shard] = field(default_factory=list)

    def add(self, shard: Moments | GroupMoments) -> None:
        """Add the moments of one shard."""
        self._shards.append(
            _Shard(
                shard.count,
                np.array([shard.spread(self.plan.members[group]) for group in self.plan.group_names]),
                sums_of_squares(self.plan, shard.mean),
                self.plan.project(shard.mean),
            )
        )
        if len(self._shards) >= MAX_SHARDS + 2:  # even, so that every shard has a partner
            pairs = zip(self._shards[::2], self._shards[1::2], strict=True)
            self._shards = [first.joined(second) for first, second in pairs]
            self.size *= 2

    def packed(self) -> list[list[Tensor]]:
        """Return every shard as tensors, to send to another process.

        Returns:
            For each shard: count, then spread and squared mean per group, in one float64 tensor; then its rows.
        """
        return [
            [torch.from_numpy(np.concatenate([[shard.count], shard.within, shard.sqnorm])), *shard.rows]
            for shard in self._shards
        ]

    def empty_pack(self) -> list[Tensor]:
        """Return tensors of the shapes that :meth:`packed` gives for one shard, to receive it."""
        groups = len(self.plan.group_names)
        return [torch.zeros(1 + 2 * groups, dtype=torch.float64), *self.plan.empty_rows()]

    def unpack(self, received: list[list[Tensor]]) -> None:
        """Replace all shards.

        Args:
            received: Shards as from :meth:`packed`, in the order of their samples.
        """
        groups = len(self.plan.group_names)
        self._shards = [
            _Shard(int(head[0]), head[1 : 1 + groups].numpy(), head[1 + groups :].numpy(), rows)
            for head, *rows in received
        ]

    def summary(self) -> ShardSummary:
        """Sum over all shards so far; the whole model is appended as the last group."""
        grams = [gram(torch.stack(column)).numpy() for column in zip(*(s.rows for s in self._shards), strict=True)]
        counts = np.array([shard.count for shard in self._shards], dtype=np.float64)
        within = _with_total(np.stack([shard.within for shard in self._shards]))
        sqnorm = _with_total(np.stack([shard.sqnorm for shard in self._shards]))
        return ShardSummary(counts, within, np.stack([*grams, np.sum(grams, axis=0)]), sqnorm)


def sums_of_squares(plan: RowPlan, values: Params) -> Floats:
    """Sum the squared entries of each group, in float64.

    Args:
        plan: The parameters of each group.
        values: One tensor per parameter.

    Returns:
        Shape ``(G,)``.
    """
    sums = [sum(float(values[name].double().square().sum()) for name in plan.members[g]) for g in plan.group_names]
    return np.array(sums, dtype=np.float64)


def _with_total(table: Floats) -> Floats:
    return np.concatenate([table, table.sum(1, keepdims=True)], axis=1)
