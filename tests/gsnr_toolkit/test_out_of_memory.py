"""A device that runs out of memory costs time, not the answer."""

import pytest
import torch
from torch import nn

from gsnr_toolkit.batches import batch_length
from gsnr_toolkit.distributed import Ranks
from gsnr_toolkit.errors import NonFiniteError, ProbeError
from gsnr_toolkit.estimators.rows import plan_rows
from gsnr_toolkit.estimators.shards import ShardCollector
from gsnr_toolkit.gradients.functional import GradientTask, trainable_params
from gsnr_toolkit.gradients.taps import TapsEngine
from gsnr_toolkit.groups import assign_groups
from gsnr_toolkit.losses import resolve_loss
from gsnr_toolkit.moment_pass import MomentPass, cut_at_shards
from gsnr_toolkit.moments import Moments


class Small(TapsEngine):
    """An engine on a device with room for a few samples: the rest of what it began is lost."""

    def __init__(self, room):
        super().__init__()
        self.room, self.refused = room, 0

    def accumulate(self, task, batch, moments, *, chunk_size):
        size = min(chunk_size, batch_length(batch))
        if size > self.room:
            super().accumulate(
                task, batch[:1] if torch.is_tensor(batch) else tuple(t[:1] for t in batch), moments, chunk_size=1
            )  # fmt: skip - what was done before memory ran out
            self.refused += 1
            raise torch.OutOfMemoryError("out of memory")
        return super().accumulate(task, batch, moments, chunk_size=chunk_size)


def _setting(count=20):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    batch = (torch.randn(count, 4, dtype=torch.float64), torch.arange(count) % 2)
    task = GradientTask(model, trainable_params(model), resolve_loss(None))
    plan = plan_rows(task.params, assign_groups(model, task.params), num_rows=17)
    return task, batch, plan


def _run(engine, task, batch, plan, chunk_size=8, size=8):
    work = MomentPass(task, engine, chunk_size, 0, Moments)
    done = []
    moments, losses = work.run([batch], ShardCollector(plan, size=size), done.append, Ranks())
    return moments, losses, work, done


def test_the_shard_is_done_again_with_fewer_samples_at_once():
    task, batch, plan = _setting()
    expected, losses, _, _ = _run(TapsEngine(), task, batch, plan)
    engine = Small(room=3)
    found, again, work, done = _run(engine, task, batch, plan)
    assert work.chunk_size == 2
    assert engine.refused == 2  # eight, then four; two fit
    assert done == [8, 8, 4]
    assert found.count == expected.count == 20
    for name in task.params:
        torch.testing.assert_close(found.mean[name], expected.mean[name], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(found.m2[name], expected.m2[name], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(torch.tensor(again), torch.tensor(losses), rtol=1e-12, atol=0)


def test_no_room_for_one_sample_is_a_sentence():
    task, batch, plan = _setting()
    with pytest.raises(ProbeError, match=r"one sample's forward and backward.*detail='group'"):
        _run(Small(room=0), task, batch, plan)


def test_losses_that_are_not_finite_name_their_row():
    task, (inputs, labels), plan = _setting()
    inputs[13, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="nan for sample 13 of batch 0"):
        _run(TapsEngine(), task, (inputs, labels), plan)


@pytest.mark.parametrize("sizes", [[20], [7, 7, 6], [1] * 20, [13, 7]])
def test_shards_are_the_same_blocks_whatever_the_batches(sizes):
    batches = torch.arange(20).split(sizes)
    pieces = list(cut_at_shards(batches, lambda: 6))
    shards, current = [], []
    for piece in pieces:
        current += piece.rows.tolist()
        assert piece.rows[0] == piece.first
        assert batches[piece.batch][piece.start] == piece.first
        if piece.ends_shard:
            shards.append(current)
            current = []
    assert [*shards, current] == [list(range(a, min(a + 6, 20))) for a in (0, 6, 12, 18)]
