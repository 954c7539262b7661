"""Models that skip layers at random: another engine takes over, and every sample counts once."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

from gsnr_toolkit import estimate_gsnr
from gsnr_toolkit.errors import EngineError, ProbeError
from gsnr_toolkit.gradients.select import make_engine
from gsnr_toolkit.gradients.taps.engine import STATES_AT_FIRST, TapsEngine
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.groups import assign_groups
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.moments.shards import ShardCollector
from gsnr_toolkit.moments.sketches import plan_rows
from gsnr_toolkit.readings.moment_pass import MomentPass, cut_at_shards
from gsnr_toolkit.setup import engine_choice
from gsnr_toolkit.setup.batch_guards import check_independent
from gsnr_toolkit.setup.distributed import Ranks
from tests.support.reference import one_row, per_sample_gradients
from tests.support.tapped import make_task, square_loss

DATA = torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SHARD, CHUNK = 6, 3


class Skipping(nn.Module):
    """The second block is left out where a random number lies between two bounds."""

    def __init__(self, low=0.0, high=0.5, draw=lambda: float(torch.rand(()))):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.low, self.high, self.draw = low, high, draw

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        if not self.low < self.draw() < self.high:
            hidden = hidden + torch.tanh(self.second(hidden))
        return self.head(hidden)


def _labelled():
    return [(rows, (rows[:, 0] > 0).long()) for rows in DATA.split(7)]


DRAWS = {"torch": lambda: float(torch.rand(())), "python": random.random, "numpy": np.random.rand}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("detail", ["parameter", "group"])
def test_a_block_that_runs_every_other_time_is_measured_like_the_loop(draw, detail):
    model = Skipping(draw=DRAWS[draw]).double()
    found, expected = (
        estimate_gsnr(model, _labelled(), engine=engine, detail=detail, progress=False) for engine in ("auto", "loop")
    )
    columns = ["gsnr", "gsnr_low", "gsnr_high", "mean_grad_sqnorm", "trace_covariance"]
    np.testing.assert_array_equal(found.layers[columns], expected.layers[columns])
    assert found.coverage == expected.coverage
    (note,) = set(found.notes) - set(expected.notes)
    assert note.startswith("engine: one backward per sample, since its random numbers decide which operations")
    with pytest.raises(ProbeError, match=r"taps engine cannot follow this model \(.* random .*\); pass engine='auto'"):
        estimate_gsnr(model, _labelled(), engine="taps", progress=False)


def test_layers_skipped_at_random_are_not_taken_for_mixed_samples():
    task = make_task(Skipping().double())
    for seed in range(16):
        check_independent(task, (DATA,), seed)


def test_data_may_decide_which_operations_run_where_random_numbers_do_not():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.drop, self.head = nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 2)

        def forward(self, x):
            hidden = self.drop(self.inner(x))
            return self.head(hidden if x[0, 0] > 0 else hidden.tanh())

    task, engine, moments = make_task(Branching().double().train()), TapsEngine(), Moments()
    for sign in (1, -1, 1):
        rows = DATA[:8].clone()
        rows[:, 0] = sign * rows[:, 0].abs()
        engine.accumulate(task, (rows,), moments, chunk_size=8)
    assert moments.count == 24
    assert len(engine._plans) == 2


# ---- seen late ------------------------------------------------------------------------------------------------------


def _draws(seed, count):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return [float(torch.rand(())) for _ in range(count)]


def _gap():
    """Bounds between which none of the numbers lies that are drawn before the first plan."""
    seen = sorted(_draws(seed, 1)[0] for seed in range(STATES_AT_FIRST))
    return max(itertools.pairwise(seen), key=lambda pair: pair[1] - pair[0])


def _skips(seed, count):
    low, high = _gap()
    return [low < number < high for number in _draws(seed, count)]


def _pieces(sizes):
    """Pieces by shard."""
    shards = [[]]
    for piece in cut_at_shards([(rows,) for rows in DATA.split(sizes)], lambda: SHARD):
        shards[-1].append(piece)
        if piece.ends_shard:
            shards.append([])
    return [shard for shard in shards if shard]


def _chunks(shard, seed):
    """Number of samples that run at once in a shard, and whether the block is left out for them."""
    for piece in shard:
        parts = piece.rows[0].split(CHUNK)
        yield from zip(map(len, parts), _skips(seed + piece.first, len(parts)), strict=True)


def _first_skip(sizes, seed):
    """Shard, and chunk of it, in which the block is left out first.

    None if that is a single sample, which is always done by a backward of its own.
    """
    for number, shard in enumerate(_pieces(sizes)):
        for place, (length, skip) in enumerate(_chunks(shard, seed)):
            if skip:
                return (number, place) if length > 1 else None
    return None


def _late_seed(sizes):
    """A seed with which the block is left out late, after a part of the shard is in."""
    found = ((seed, _first_skip(sizes, seed)) for seed in range(10_000))
    return next(seed for seed, place in found if place and place[0] >= 2 and place[1] >= 1)


def _late_run(sizes, new, spare):
    torch.manual_seed(1)
    model = Skipping(*_gap()).double()
    task, engine, done = make_task(model), TapsEngine(), []
    with torch.random.fork_rng():
        torch.manual_seed(next(seed for seed in range(1000) if not any(_skips(seed, 8))))
        assert engine.prepare(task, (DATA,)) == 1
    seed = _late_seed(sizes)
    plan = plan_rows(task.params, assign_groups(model, task.params), num_rows=17)
    work, collector = MomentPass(task, engine, CHUNK, seed, new, spare), ShardCollector(plan, size=SHARD)
    moments, losses = work.run([(rows,) for rows in DATA.split(sizes)], collector, done.append, Ranks())
    return model, seed, moments, losses, work, done


def _expected(model, sizes, seed):
    """Before the block is first left out, with it; from that shard on, a draw for each sample."""
    late, grads, losses = _first_skip(sizes, seed)[0], [], []
    for number, shard in enumerate(_pieces(sizes)):
        for piece in shard:
            model.draw = (lambda: 1.0) if number < late else DRAWS["torch"]
            torch.manual_seed(seed + piece.first)
            grads.append(per_sample_gradients(model, piece.rows, square_loss, one_row))
            torch.manual_seed(seed + piece.first)
            losses += [square_loss(model, one_row(piece.rows, i)) for i in range(batch_length(piece.rows))]
    return {name: torch.cat([one[name] for one in grads]) for name in grads[0]}, torch.cat(losses), late


@pytest.mark.parametrize("new", [Moments, GroupMoments])
@pytest.mark.parametrize("sizes", [[40], [7] * 5 + [5], [16, 24]], ids=str)
def test_a_block_that_is_first_left_out_late_has_its_shard_done_again(sizes, new):
    model, seed, moments, losses, work, done = _late_run(sizes, new, make_engine("loop"))
    grads, wanted, late = _expected(model, sizes, seed)
    assert late >= 2
    assert moments.count == sum(done) == 40
    for name, grad in grads.items():
        torch.testing.assert_close(moments.mean[name], grad.mean(0), rtol=1e-10, atol=1e-13)
        assert moments.spread([name]) == pytest.approx(float((grad - grad.mean(0)).square().sum()), rel=1e-10)
    torch.testing.assert_close(torch.as_tensor(losses), wanted.detach(), rtol=1e-10, atol=1e-13)
    assert work.shares() == {"taps and loop": list(grads)}
    (note,) = work.notes()
    assert note.startswith(f"engine: {40 - late * SHARD} of 40 samples by one backward per sample, since its random")
    assert "pass engine" not in note


def test_the_reference_tells_a_layer_that_is_skipped_from_one_that_is_not():
    """The comparison above can fail: with the block always on, the moments are others."""
    model, _, moments, *_ = _late_run([40], Moments, make_engine("loop"))
    model.draw = lambda: 1.0
    always = per_sample_gradients(model, (DATA,), square_loss, one_row)["second.weight"].mean(0)
    assert float((moments.mean["second.weight"] - always).norm()) > 1e-2 * float(always.norm())


def test_without_another_engine_it_stays_an_error():
    with pytest.raises(EngineError, match=r"layers skipped at random.*pass engine='loop'"):
        _late_run([40], Moments, None)


class Tiring(TapsEngine):
    """Gives up in the third shard, after it has added some of its samples."""

    calls = 0

    def accumulate(self, task, batch, moments, *, chunk_size):
        self.calls += 1
        if self.calls == 3:
            super().accumulate(task, (batch[0][:2], batch[1][:2]), moments, chunk_size=2)
            raise EngineError("expected more of the same; pass engine='loop'")
        return super().accumulate(task, batch, moments, chunk_size=chunk_size)


def test_a_report_names_both_engines_and_the_reason(monkeypatch):
    model, batch = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double(), (DATA, (DATA[:, 0] > 0).long())
    options = {"max_samples": 40, "progress": False}
    expected = estimate_gsnr(model, [batch], engine="loop", **options)
    monkeypatch.setattr(engine_choice, "TapsEngine", Tiring)
    found = estimate_gsnr(model, [batch], **options)
    for column in ("gsnr", "gsnr_low", "gsnr_high", "trace_covariance"):
        np.testing.assert_allclose(found.layers[column], expected.layers[column], rtol=1e-9)
    total = sum(param.numel() for param in model.parameters())
    assert found.coverage["engine"] == {"taps and loop": total}
    assert found.coverage["share"] == 1
    assert found.coverage["sentence"].endswith("100 % by the taps and loop engine")
    (note,) = found.notes
    assert note.endswith("of 40 samples by one backward per sample, since expected more of the same")
    with pytest.raises(EngineError, match="expected more of the same"):
        estimate_gsnr(model, [batch], engine="taps", **options)
