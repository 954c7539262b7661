"""Shards: where they are cut, what is done again when memory runs out, and what is refused."""

import itertools

import pytest
import torch
from torch import nn

from gsnr_toolkit.errors import NonFiniteError, ProbeError
from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.streaming import StreamingEngine
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.groups import assign_groups
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.moments.shards import ShardCollector
from gsnr_toolkit.moments.sketches import plan_rows
from gsnr_toolkit.readings import moment_pass
from gsnr_toolkit.readings.moment_pass import MomentPass, Piece, cut_at_shards, run_together
from gsnr_toolkit.setup.distributed import Ranks
from tests.support.tapped import make_task, truth

DATA = torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SPLITS = [[40], [8] * 5, [1] * 40, [7] * 5 + [5], [3, 20, 1, 16]]


def _batches(sizes):
    return [(rows,) for rows in DATA.split(sizes)]


def _task():
    torch.manual_seed(1)
    return make_task(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double())


def _collector(task, size=1):
    plan = plan_rows(task.params, assign_groups(task.model, task.params, "block"), num_rows=17, seed=0)
    return ShardCollector(plan, size=size)


def _run(engine, sizes, *, chunk_size=100, new=Moments, shard=6):
    """Moments, losses, shards, progress and the pass itself."""
    task, done = _task(), []
    collector = _collector(task, shard)
    work = MomentPass(task, engine, chunk_size, 0, new)
    moments, losses = work.run(iter(_batches(sizes)), collector, done.append, Ranks())
    return moments, losses, collector.summary(), done, work


def _assert_right(moments, losses):
    task = _task()
    grads = truth(task, (DATA,))
    assert moments.count == 40
    for name, grad in grads.items():
        torch.testing.assert_close(moments.mean[name], grad.mean(0), rtol=1e-10, atol=1e-12)
        assert moments.spread([name]) == pytest.approx(float((grad - grad.mean(0)).square().sum()), rel=1e-10)
    expected = task.losses(task.params, (DATA,))
    torch.testing.assert_close(torch.as_tensor(losses), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_shards_are_cut_alike_whatever_the_batches(sizes):
    pieces = list(cut_at_shards(_batches(sizes), lambda: 6))
    torch.testing.assert_close(torch.cat([piece.rows[0] for piece in pieces]), DATA, rtol=0, atol=0)
    ends = [piece.first + batch_length(piece.rows) for piece in pieces if piece.ends_shard]
    assert ends == [6, 12, 18, 24, 30, 36]
    starts = list(itertools.accumulate(sizes, initial=0))
    for piece in pieces:
        stop = piece.first + batch_length(piece.rows)
        assert piece.first == starts[piece.batch] + piece.start
        assert piece.ends_batch == (stop == starts[piece.batch + 1])
        torch.testing.assert_close(piece.rows[0], DATA[piece.first : stop], rtol=0, atol=0)


def test_a_new_size_counts_from_the_next_shard_on():
    sizes = iter([2, 5, 5, 100])
    pieces = list(cut_at_shards(_batches([9, 31]), lambda: next(sizes)))
    assert [piece.first for piece in pieces] == [0, 2, 7, 9, 12]
    assert [piece.ends_shard for piece in pieces] == [True, True, False, True, False]


@pytest.mark.parametrize("new", [Moments, GroupMoments])
@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_moments_and_shards_do_not_depend_on_the_batches(sizes, new):
    moments, losses, shards, done, _ = _run(TapsEngine(), sizes, new=new)
    _assert_right(moments, losses)
    _, _, one, _, _ = _run(TapsEngine(), [40], new=new)
    assert shards.counts.tolist() == [6, 6, 6, 6, 6, 6, 4]
    assert done == [6, 6, 6, 6, 6, 6, 4]
    for found, expected in ((shards.within, one.within), (shards.gram, one.gram), (shards.sqnorm, one.sqnorm)):
        torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-10, atol=1e-12)


def test_shards_that_grow_on_the_way():
    moments, losses, shards, _, _ = _run(TapsEngine(), [7] * 5 + [5], shard=1)
    _assert_right(moments, losses)
    assert shards.counts.sum() == 40
    assert len(shards.counts) <= 18
    assert sorted(set(shards.counts[:-1].tolist())) in ([2.0], [2.0, 4.0], [4.0])


ENGINES = {"taps": TapsEngine, "loop": lambda: StreamingEngine("loop", loop_gradients)}


class Small:
    """An engine for which memory runs out above ``room`` samples, after it has added some."""

    def __init__(self, name, room):
        self.inner, self.room, self.chunks, self.refused = ENGINES[name](), room, [], 0

    def accumulate(self, task, batch, moments, *, chunk_size):
        self.chunks.append(chunk_size)
        if min(chunk_size, batch_length(batch)) > self.room:
            self.refused += 1
            self.inner.accumulate(task, (batch[0][:1],), moments, chunk_size=1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner.accumulate(task, batch, moments, chunk_size=chunk_size)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("room", [1, 2, 5])
@pytest.mark.parametrize("new", [Moments, GroupMoments])
def test_a_shard_is_begun_again_with_half_the_samples(name, room, new):
    engine = Small(name, room)
    moments, losses, shards, done, work = _run(engine, [8] * 5, new=new, shard=16)
    _assert_right(moments, losses)
    assert done == [16, 16, 8]
    assert shards.counts.tolist() == [16, 16, 8]
    assert work.chunk_size == {1: 1, 2: 2, 5: 4}[room]
    assert engine.refused == {1: 4, 2: 3, 5: 2}[room]
    assert engine.chunks[0] == 100
    assert engine.chunks[1] == 8  # half of what ran together, not of what was allowed
    assert all(a >= b for a, b in itertools.pairwise(engine.chunks))


class Seen(Small):
    """An engine that remembers how many samples it was given at a time."""

    def __init__(self):
        super().__init__("taps", 1000)
        self.given = []

    def accumulate(self, task, batch, moments, *, chunk_size):
        self.given.append(batch_length(batch))
        return super().accumulate(task, batch, moments, chunk_size=chunk_size)


def test_small_batches_of_a_shard_run_together():
    engine = Seen()
    moments, losses, shards, done, _ = _run(engine, [2] * 20, shard=16)
    _assert_right(moments, losses)
    assert engine.given == [16, 16, 8]
    assert done == [16, 16, 8]
    assert shards.counts.tolist() == [16, 16, 8]


def test_no_more_run_together_than_memory_has_room_for_nor_than_is_of_use(monkeypatch):
    few = Seen()
    _assert_right(*_run(few, [2] * 20, chunk_size=5, shard=16)[:2])
    assert few.given == [4] * 10
    monkeypatch.setattr(moment_pass, "TOGETHER", 6)
    bounded = Seen()
    _assert_right(*_run(bounded, [2] * 20, shard=16)[:2])
    assert bounded.given == [6, 6, 4, 6, 6, 4, 6, 2]


def test_batches_that_differ_in_more_than_rows_run_alone():
    """Padded to different lengths, or with things beside the tensors that differ."""
    wide, narrow = torch.zeros(2, 5), torch.zeros(2, 4)
    for one, other, same in (
        ((wide, wide), (wide, wide), True),
        ((wide,), (narrow,), False),
        ({"x": wide}, {"x": wide}, True),
        ({"x": wide}, {"y": wide}, False),
        ((wide,), (wide, wide), False),
        ((wide,), (wide.double(),), False),
        ((wide, ["a", "b"]), (wide, ["c", "d"]), True),  # one entry per row
        ((wide, ["a", "b", "c"]), (wide, ["a", "b", "d"]), False),
        ((wide, "train"), (wide, "test"), False),
        ((wide.to_sparse(),), (wide.to_sparse(),), False),
    ):
        pieces = list(cut_at_shards([one, other], lambda: 4)) if same else [_piece(one), _piece(other)]
        assert [len(some) for some in run_together(pieces, 8)] == ([2] if same else [1, 1])


def _piece(rows):
    return Piece(batch=0, start=0, first=0, rows=rows, ends_batch=True, ends_shard=False)


@pytest.mark.parametrize("name", ENGINES)
def test_no_memory_for_one_sample_is_a_sentence(name):
    with pytest.raises(ProbeError, match=r"memory for one sample's forward and backward.*detail='group'") as error:
        _run(Small(name, 0), [8] * 5)
    assert isinstance(error.value.__cause__, torch.OutOfMemoryError)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(("size", "batch", "row"), [(8, 2, 5), (40, 0, 21), (2, 7, 1)])
def test_a_loss_that_is_not_finite_names_batch_and_row(name, size, batch, row):
    task = _task()
    batches = [(rows.clone(),) for rows in DATA.split(size)]
    batches[batch][0][row] = float("nan")
    work = MomentPass(task, ENGINES[name](), 100, 0, Moments)
    with pytest.raises(NonFiniteError, match=f"got nan for sample {row} of batch {batch}"):
        work.run(batches, _collector(task, 6), lambda _: None, Ranks())


def test_a_gradient_that_is_not_finite_names_batch_and_parameter():
    task = make_task(
        nn.Linear(4, 1).double(), lambda model, batch: (model(batch[0])[:, 0] * (batch[0][:, 0] != 0)).abs().sqrt()
    )
    batches = [(rows.clone(),) for rows in DATA.split(8)]
    batches[3][0][2, 0] = 0
    work = MomentPass(task, StreamingEngine("loop", loop_gradients), 100, 0, Moments)
    with pytest.raises(NonFiniteError, match="first in 'weight' for batch 3 although the losses are finite"):
        work.run(batches, _collector(task, 6), lambda _: None, Ranks())


def test_random_numbers_depend_on_the_batch_alone():
    """Dropout has the same masks in each pass, whatever ran before."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 2)).double().train()
    task, found = make_task(model), []
    for burn in (0, 3):
        torch.rand(burn)
        work = MomentPass(task, StreamingEngine("loop", loop_gradients), 1, 7, Moments)
        found.append(work.run(_batches([40]), _collector(task, 40), lambda _: None, Ranks())[0])
    for name in task.params:
        torch.testing.assert_close(found[0].m2[name], found[1].m2[name], rtol=0, atol=0)
