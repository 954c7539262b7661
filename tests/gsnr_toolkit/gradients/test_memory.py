"""Memory: what autograd saves, how much is free, and how many samples fit."""

import builtins
import os

import pytest
import torch
from torch import nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients import memory, select
from gsnr_toolkit.gradients.memory import free_memory, saved_bytes_per_sample
from gsnr_toolkit.gradients.select import (
    MAX_CHUNK,
    MEAN_ONLY,
    choose_chunk,
    layer_bytes,
    make_engine,
    predicted_bytes,
    without_taps,
)
from tests.support.tapped import make_task

CPU = torch.device("cpu")


def _squares(model, batch):
    return model(batch[0]).square().flatten(1).sum(1)


def _mlp(dtype=torch.float64):
    return make_task(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype), _squares)


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_saved_bytes_equal_a_count_by_hand(count, dtype):
    """The input (4), the tanh (6; the second layer's input is the same memory) and the output (3, squared)."""
    found = saved_bytes_per_sample(_mlp(dtype), (torch.randn(count, 4, dtype=dtype),))
    assert found == (4 + 6 + 3) * torch.empty(0, dtype=dtype).element_size()


@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_saved_bytes_grow_with_tokens(tokens):
    rows = (torch.randn(3, tokens, 4, dtype=torch.float64),)
    assert saved_bytes_per_sample(_mlp(), rows) == 8 * 13 * tokens


def test_parameters_buffers_and_random_numbers_are_left_out():
    model = nn.Sequential(nn.Linear(400, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).double()
    model[1].eval()
    before = torch.get_rng_state()
    found = saved_bytes_per_sample(make_task(model, _squares), (torch.randn(4, 400, dtype=torch.float64),))
    assert found < 8 * 500
    assert not torch.equal(before, torch.get_rng_state())  # changed by the batch only
    task, rows = make_task(model, _squares), (torch.zeros(4, 400, dtype=torch.float64),)
    before = torch.get_rng_state()
    saved_bytes_per_sample(task, rows)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("engine", ["taps", "vmap", MEAN_ONLY])
def test_chunk_grows_with_the_budget_and_fits_it(engine):
    task, rows = _mlp(), (torch.randn(3, 4, dtype=torch.float64),)
    chunks = [choose_chunk(engine, task, rows, budget) for budget in (1, 100, 10**4, 10**5, 10**6, 10**7)]
    assert chunks[0] == 1
    assert chunks == sorted(chunks)
    assert chunks[-1] == (MAX_CHUNK if engine == "vmap" else pytest.approx(10**7 / (8 * 13 * 1.5), rel=0.01))
    for chunk in (1, 2, 17, MAX_CHUNK):
        budget = predicted_bytes(engine, task, rows, chunk)
        assert choose_chunk(engine, task, rows, budget) == chunk
        assert choose_chunk(engine, task, rows, budget - 1) == max(1, chunk - 1)


def test_predictions_by_hand():
    task, rows = _mlp(), (torch.randn(3, 4, dtype=torch.float64),)
    saved, gradient = int(8 * 13 * 1.5), 2 * 8 * (24 + 6 + 18 + 3)
    assert layer_bytes(task) == 8 * 8 * 24  # eight samples of a matrix that is one tile
    assert predicted_bytes("loop", task, rows, 5) == saved + gradient * 3 // 2
    assert predicted_bytes("vmap", task, rows, 5) == 5 * (saved + gradient)
    assert predicted_bytes("taps", task, rows, 5) == 5 * saved + 8 * 8 * 24
    assert predicted_bytes(MEAN_ONLY, task, rows, 5) == 5 * saved + gradient


def test_a_matrix_of_many_tiles_takes_three_times_itself():
    model = nn.Linear(4000, 4000, device="meta")
    task = make_task(model, _squares)
    assert layer_bytes(task) == 3 * 4 * 4000**2


def test_a_part_of_the_free_memory_is_the_budget_by_default(monkeypatch):
    task, rows = _mlp(), (torch.randn(3, 4, dtype=torch.float64),)
    monkeypatch.setattr(select, "free_memory", lambda device: 4 * 10**6)
    assert choose_chunk("taps", task, rows) == choose_chunk("taps", task, rows, 10**6)
    assert choose_chunk("loop", task, rows) == 1


def test_free_memory_of_this_machine():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 10**6 < free_memory(CPU) <= total


def test_free_memory_without_any_report(monkeypatch):
    def closed(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(builtins, "open", closed)
    assert free_memory(CPU) > 10**6  # from the number of free pages
    monkeypatch.setattr(memory.os, "sysconf", lambda name: (_ for _ in ()).throw(ValueError(name)))
    assert free_memory(CPU) == 4 * 2**30


def test_free_memory_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (123, 456))
    assert free_memory(torch.device("cuda:0")) == 123


def test_engines_by_name():
    assert [make_engine(name).name for name in ("loop", "vmap", "taps")] == ["loop", "vmap", "taps"]
    with pytest.raises(ProbeError, match=r"one of the engines \['loop', 'taps', 'vmap'\], got 'hooks'; .* 'auto'"):
        make_engine("hooks")


def test_large_models_on_a_cpu_are_looped(monkeypatch):
    task = _mlp()
    assert without_taps(task) == "vmap"
    monkeypatch.setattr(select, "LARGE_ON_CPU", 10)
    assert without_taps(task) == "loop"
