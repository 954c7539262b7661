"""Several processes give the answer of one, whatever their number."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from gsnr_toolkit.report.report import Report
from gsnr_toolkit.setup.distributed import Ranks, current_ranks, launched_group, share_losses, unwrapped

ROOT = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("distributed_worker.py")
NAMES = ("cor", "each group", "groups", "no length", "few", "run", "tired", "wrapped")


def _run(processes, folder):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else ()), str(WORKER), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=_environment(), timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def _environment():
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return _run(1, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def together(request, tmp_path_factory):
    return request.param, _run(request.param, tmp_path_factory.mktemp("several"))


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_processes_gives_the_answer_of_one(name, alone, together):
    processes, folder = together
    expected = Report.load(alone / f"{name} 0")
    for rank in range(processes):
        found = Report.load(folder / f"{name} {rank}")
        for table in ("layers", "totals", "drift"):
            pd.testing.assert_frame_equal(
                getattr(found, table).drop(columns="message", errors="ignore"),
                getattr(expected, table).drop(columns="message", errors="ignore"),
                rtol=1e-9,
                atol=1e-12,
            )
        pd.testing.assert_frame_equal(found.trajectory, expected.trajectory, rtol=1e-9)
        assert found.coverage["share"] == 1
        assert found.coverage["engine"] == expected.coverage["engine"]


def _handed_over(report):
    (note,) = [note for note in report.notes if "by one backward per sample" in note]
    return int(note.removeprefix("engine: ").split()[0])


def test_samples_that_another_engine_took_over_are_counted_over_all_processes(alone, together):
    processes, folder = together
    shard = 53 - _handed_over(Report.load(alone / "tired 0"))  # one process gives up after its first shard
    assert 0 < shard < 53 / 3
    for rank in range(processes):
        assert _handed_over(Report.load(folder / f"tired {rank}")) == 53 - processes * shard


def test_one_process_is_one_of_one():
    assert current_ranks() == Ranks(0, 1)
    with launched_group() as ranks:
        assert ranks == Ranks(0, 1)
    assert [Ranks(0, 3).owner(index) for index in range(4)] == [0, 1, 2, 0]


def test_losses_come_in_the_order_of_the_samples():
    losses = {3: torch.tensor([4.0]), 0: torch.tensor([1.0, 2.0, 3.0])}
    assert share_losses(losses, 4, Ranks()).tolist() == [1, 2, 3, 4]


def test_data_parallel_wrappers_are_taken_off():
    inner = nn.Linear(2, 1)
    assert unwrapped(nn.DataParallel(inner))[0] is inner
    assert unwrapped(inner)[0] is inner
