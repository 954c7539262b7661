"""One pass over the samples: per-sample gradients into moments, shard by shard.

A shard is a block of consecutive samples. It is the unit of the jackknife, of the work of one process, and of retries:
a shard is repeated with fewer samples at a time if a GPU runs out of memory, and by another engine if the first one can
no longer follow the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from gsnr_toolkit.errors import EngineError, ProbeError, first_line
from gsnr_toolkit.gradients.batch_gradient import fewer_samples
from gsnr_toolkit.gradients.task import AnyMoments, Engine, GradientTask
from gsnr_toolkit.inputs.batches import batch_length, can_join, join_batches, take_rows
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.moments.shards import ShardCollector
from gsnr_toolkit.setup.batch_guards import check_finite
from gsnr_toolkit.setup.distributed import Ranks, merge_moments, share_losses, share_shards, summed
from gsnr_toolkit.types import Batch, Floats

TOGETHER = 32
"""Samples from small batches that run together. Larger groups cost no less a sample (``benchmarks/README.md``)."""


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one batch that belong to one shard.

    Attributes:
        batch: Number of the batch.
        start: First of these rows in the batch.
        first: Number of the first sample, counted over all batches.
        rows: The rows.
        ends_batch: Whether the batch ends here.
        ends_shard: Whether the shard is full.
    """

    batch: int
    start: int
    first: int
    rows: Batch
    ends_batch: bool
    ends_shard: bool


def cut_at_shards(batches: Iterable[Batch], size: Callable[[], int]) -> Iterator[Piece]:
    """Cut batches where shards end.

    Args:
        batches: Batches, each seen once.
        size: Returns the present number of samples per shard; called at the start of each shard.

    Yields:
        Pieces in order.

    >>> pieces = cut_at_shards([torch.zeros(3), torch.zeros(3)], lambda: 4)
    >>> [(p.batch, p.first, len(p.rows), p.ends_shard) for p in pieces]
    [(0, 0, 3, False), (1, 3, 1, True), (1, 4, 2, False)]
    """
    done, room = 0, 0
    for index, batch in enumerate(batches):
        start, length = 0, batch_length(batch)
        while start < length:
            room = room or size()
            stop = min(length, start + room)
            room -= stop - start
            yield Piece(index, start, done + start, take_rows(batch, start, stop), stop == length, room == 0)
            start = stop
        done += length


def run_together(pieces: list[Piece], room: int) -> Iterator[list[Piece]]:
    """Group pieces that run together: a few samples at a time cost far more than the same samples in one run.

    Args:
        pieces: Pieces of one shard, in order.
        room: Most samples that may run together.

    Yields:
        Neighbours with at most ``room`` samples that differ in their rows only. A single piece may hold more.

    >>> pieces = list(cut_at_shards([torch.zeros(2)] * 4, lambda: 8))
    >>> [sum(len(p.rows) for p in some) for some in run_together(pieces, 5)]
    [4, 4]
    """
    some: list[Piece] = []
    count = 0
    for piece in pieces:
        length = batch_length(piece.rows)
        if some and (count + length > room or not can_join(some[-1].rows, piece.rows)):
            yield some
            some, count = [], 0
        some.append(piece)
        count += length
    if some:
        yield some


class MomentPass:
    """Runs shards through an engine.

    Args:
        task: Model, parameters and loss.
        engine: Per-sample gradient engine.
        chunk_size: Samples that may run at the same time; halved if a GPU runs out of memory.
        seed: Random state of rows that begin with sample i is ``seed + i``, so that no two draw the same dropout masks.
        new: Creates empty moments.
        spare: Engine that takes over from the shard on at which the first one can no longer follow the model. Without
            a spare that is an error.
    """

    def __init__(
        self,
        task: GradientTask,
        engine: Engine,
        chunk_size: int,
        seed: int,
        new: Callable[[], AnyMoments],
        spare: Engine | None = None,
    ) -> None:
        self.task, self.engine, self.chunk_size, self.seed, self.new = task, engine, chunk_size, seed, new
        self._first, self._spare = engine, spare
        self._total = self._handed_over = 0
        self._apart = False
        self._reason = "the engine of another process could no longer follow the model"

    def run(
        self,
        batches: Iterable[Batch],
        collector: ShardCollector,
        advance: Callable[[int], None],
        ranks: Ranks,
    ) -> tuple[AnyMoments, Floats]:
        """Run all samples, or the shards of this process, and merge with the other processes.

        Args:
            batches: Batches, read once; the same ones in every process.
            collector: Receives every finished shard.
            advance: Progress callback.
            ranks: Rank and world size of this process.

        Returns:
            Moments of all samples, and their losses, shape ``(n,)``.
        """
        total, pieces, losses = self.new(), list[Piece](), dict[int, Tensor]()
        number = count = 0
        for piece in cut_at_shards(batches, lambda: collector.size):
            pieces.append(piece)
            count = piece.first + batch_length(piece.rows)
            if piece.ends_shard:
                self._finish(pieces, number, total, losses, collector, advance, ranks)
                pieces, number = [], number + 1
        if pieces:
            self._finish(pieces, number, total, losses, collector, advance, ranks)
            number += 1
        self._total = count
        if ranks.size > 1:
            merge_moments(total, self.task.params, ranks)
            share_shards(collector, number, ranks)
            self._handed_over = int(summed(torch.tensor(self._handed_over)))
        return total, share_losses(losses, count, ranks)

    def shares(self) -> dict[str, list[str]]:
        """Return which engine served which parameters. Call it after the run.

        Returns:
            Engine to names of parameters, every parameter once. Where one engine took over from another, the key
            names both.
        """
        first = self._first.shares(self.task)
        if self._spare is None or not self._handed_over:
            return first
        spare = self._spare.shares(self.task)
        if self._handed_over == self._total:
            return spare
        (other,) = spare
        return {f"{engine} and {other}": names for engine, names in first.items()}

    def notes(self) -> list[str]:
        """Describe how the gradients were computed, for the report. Call it after the run.

        Returns:
            Notes of the engine itself, and why and for how many samples another one took over.
        """
        own = self._first.notes() if self._handed_over < max(1, self._total) else []
        if not self._handed_over:
            return own
        return [
            *own,
            f"engine: {self._handed_over} of {self._total} samples by one backward per sample, since {self._reason}",
        ]

    def _finish(
        self,
        pieces: list[Piece],
        number: int,
        total: AnyMoments,
        losses: dict[int, Tensor],
        collector: ShardCollector,
        advance: Callable[[int], None],
        ranks: Ranks,
    ) -> None:
        if number % ranks.size != ranks.rank:
            return
        shard = self._shard(pieces, losses, advance)
        collector.add(shard)
        total.absorb(cast("Any", shard))  # both were made by self.new

    def _shard(self, pieces: list[Piece], losses: dict[int, Tensor], advance: Callable[[int], None]) -> AnyMoments:
        """Moments of one shard; repeated with half the samples at a time, or by the spare engine, if it fails."""
        while True:
            shard = self.new()
            try:
                for some in run_together(pieces, self._room()):
                    self._take(some, shard, losses)
            except torch.OutOfMemoryError as error:
                groups = run_together(pieces, self._room())
                longest = max(sum(batch_length(piece.rows) for piece in some) for some in groups)
                self.chunk_size = fewer_samples(self.chunk_size, longest, error)
                continue
            except EngineError as error:
                if self._spare is None or self.engine is self._spare:
                    raise
                self.engine, self.chunk_size, self._reason = self._spare, 1, first_line(error)
                continue
            except (RuntimeError, ValueError) as error:
                # a model that expects its batches in order, such as sorted by length, may run on each of them alone
                if isinstance(error, ProbeError) or not self._joins(pieces):
                    raise
                self._apart = True
                continue
            count = sum(batch_length(piece.rows) for piece in pieces)
            self._handed_over += count if self.engine is self._spare else 0
            advance(count)
            return shard

    def _room(self) -> int:
        """Most samples of several batches that run together."""
        return 1 if self._apart else min(self.chunk_size, TOGETHER)

    def _joins(self, pieces: list[Piece]) -> bool:
        return any(len(some) > 1 for some in run_together(pieces, self._room()))

    def _take(self, pieces: list[Piece], shard: AnyMoments, losses: dict[int, Tensor]) -> None:
        rows = pieces[0].rows if len(pieces) == 1 else join_batches([piece.rows for piece in pieces])
        with preserved_rng(seed=self.seed + pieces[0].first):
            found = self.engine.accumulate(self.task, rows, shard, chunk_size=self.chunk_size)
        for piece, own in zip(pieces, found.split([batch_length(piece.rows) for piece in pieces]), strict=True):
            check_finite({}, own, piece.batch, piece.start)
            losses[piece.first] = own
        last = pieces[-1]
        if any(piece.ends_batch for piece in pieces) or last.ends_shard:
            check_finite(shard.mean, found, last.batch, last.start)
