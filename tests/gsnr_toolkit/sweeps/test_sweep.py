"""Sweeps with processes that do no work: what is skipped, what is done again, what a failure costs the others."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.sweeps import local
from gsnr_toolkit.sweeps.folder import SweepFolder
from gsnr_toolkit.sweeps.grid import make_grid
from gsnr_toolkit.sweeps.job import Job
from gsnr_toolkit.sweeps.local import choose_workers, run_local
from gsnr_toolkit.sweeps.show import line
from gsnr_toolkit.sweeps.sweep import run_grid, sweep
from gsnr_toolkit.sweeps.table import read_table
from gsnr_toolkit.training.config import TrainConfig
from tests.support.fake_training import FAILS, HANGS_ONCE, KILLED_ONCE, SAYS_NOTHING

FAKE = "tests.support.fake_training:run_training"
ROOT = Path(__file__).parents[3]


def run(axes, out, **options):
    grid = make_grid(TrainConfig(steps=5), axes)
    return run_grid(grid, out, **{"workers": 2, "device": "cpu", "function": FAKE, **options})


def calls(out):
    """How often each run was begun."""
    return {path.parent.name: len(path.read_text().splitlines()) for path in Path(out).glob("runs/*/begun")}


def test_a_sweep_with_every_kind_of_failure_and_again(tmp_path, capsys):
    radii = [0.0, FAILS, KILLED_ONCE, SAYS_NOTHING, 0.05]
    table = run({"rho": radii}, tmp_path, threads=2)
    assert table["rho"].tolist() == radii
    assert table["status"].tolist() == ["ok", "failed", "failed", "failed", "dead"]
    messages = table.set_index("rho")["message"]
    assert messages[FAILS] == "ValueError: no luck"
    assert "signal SIGKILL; if memory ran out, use fewer --workers" in messages[KILLED_ONCE]
    assert "ended without results" in messages[SAYS_NOTHING]
    assert pd.isna(messages[0.0])
    failure = json.loads((tmp_path / "failed" / f"{table['key'][1]}.json").read_text())
    assert 'raise ValueError("no luck")' in failure["traceback"]
    assert "mind the gap" in (tmp_path / "logs" / f"{table['key'][0]}.txt").read_text()
    assert (tmp_path / "runs" / table["key"][0] / "begun").read_text() == "2 cpu\n"
    told = capsys.readouterr().err
    assert "[5/5]" in told
    assert "demo-nt, rho 0.05, seed 0: AUC 0.500 [0.480, 0.520], loss 0.693, dead" in told
    # the same again: what is done is left alone, the others are tried once more
    again = run({"rho": radii}, tmp_path)
    assert again["status"].tolist() == ["ok", "failed", "dead", "failed", "dead"]
    assert sorted(calls(tmp_path).values()) == [1, 1, 2, 2, 2]


def test_the_table_carries_every_setting_and_result(tmp_path):
    given = {"rho": [0, 0.05], "eval_data": [["demo-cdf", "demo-gan"]], "seed": [0, 1]}
    table = run(given, tmp_path)
    assert table.columns[:3].tolist() == ["key", "status", "message"]
    configs = make_grid(TrainConfig(steps=5), given).configs
    for row, config in zip(table.to_dict("records"), configs, strict=True):
        for name, value in config.to_dict().items():
            if value is None:
                assert row[name] != row[name]
            else:
                assert row[name] == (",".join(value) if isinstance(value, list) else value), name
        assert row["key"] == config.key
        assert row["cor_high"] == math.inf
        assert math.isnan(row["escape_radius"])
    assert table["test_auc"].tolist() == [0.9, 0.5, 0.89, 0.5]
    pd.testing.assert_frame_equal(table, read_table(tmp_path))


def test_more_values_are_added_and_nothing_is_run_twice(tmp_path):
    run({"rho": [0, 0.05]}, tmp_path)
    table = run({"rho": [0, 0.01, 0.05]}, tmp_path)
    assert table["rho"].tolist() == [0.0, 0.01, 0.05]
    assert list(calls(tmp_path).values()) == [1, 1, 1]
    with pytest.raises(
        ProbeError, match=r"to have no other settings than this one, but it does \(only there: rho 0.01, 0.05"
    ):
        run({"rho": [0]}, tmp_path)
    assert len(read_table(tmp_path)) == 3
    assert run({"rho": [0]}, tmp_path, overwrite=True)["rho"].tolist() == [0.0]
    assert len(calls(tmp_path)) == 3, "the old runs are kept"


SCRIPT = """
import sys
from gsnr_toolkit.sweeps.grid import make_grid
from gsnr_toolkit.sweeps.sweep import run_grid
from gsnr_toolkit.training.config import TrainConfig
grid = make_grid(TrainConfig(steps=5), {"rho": [0.0, %s, 0.05]})
run_grid(grid, sys.argv[1], workers=2, device="cpu", function="tests.support.fake_training:run_training")
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_ended_leaves_no_process_and_goes_on(tmp_path, how):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command_line = [sys.executable, "-c", SCRIPT % HANGS_ONCE, str(tmp_path)]
    hanging = SweepFolder(tmp_path).run_folder(TrainConfig(steps=5, rho=HANGS_ONCE))
    with subprocess.Popen(command_line, env=environment, stderr=subprocess.PIPE, start_new_session=True) as process:
        wait_for(lambda: (hanging / "begun").exists() and len(list(tmp_path.glob("runs/*/result.json"))) == 2)
        workers = [pid for pid, command in processes().items() if str(hanging).encode() in command]
        assert len(workers) == 1
        process.send_signal(how)
        assert process.wait(90) != 0
    wait_for(lambda: workers[0] not in processes())
    table = run({"rho": [0.0, HANGS_ONCE, 0.05]}, tmp_path)
    assert table["status"].tolist() == ["ok", "dead", "dead"]
    assert calls(tmp_path)[hanging.name] == 2
    assert sum(calls(tmp_path).values()) == 4


def processes():
    """Command lines of all processes by id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(path.parent.name)] = path.read_bytes()
        except OSError:
            continue
    return {pid: text for pid, text in found.items() if text}


def wait_for(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_what_is_wrong_is_told_before_the_folder_is_touched(tmp_path):
    for options, message in [
        ({"workers": 0}, "expected workers to be 1 or more, got 0"),
        ({"threads": 0}, "expected threads to be 1 or more, got 0"),
    ]:
        with pytest.raises(ProbeError, match=message):
            run({"rho": [0]}, tmp_path / "out", **options)
    with pytest.raises(ProbeError, match="a known data set, got 'demo-xy'"):
        sweep(TrainConfig(), {"data": ["demo-xy"]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_workers_and_devices_are_chosen(monkeypatch):
    monkeypatch.setattr(local, "_cores", lambda: 8)
    assert choose_workers(None, 3, "cpu") == (2, ["cpu"])
    assert choose_workers(None, 16, "cpu") == (1, ["cpu"])
    assert choose_workers(5, 1, "cpu") == (5, ["cpu"])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_workers(None, 1, None) == (2, ["cuda:0", "cuda:1"])
    assert choose_workers(4, 1, "cuda") == (4, ["cuda:0", "cuda:1"])
    assert choose_workers(None, 1, "cuda:1") == (1, ["cuda:1"])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert choose_workers(None, 2, None) == (4, [None])


def test_devices_are_taken_in_turn_and_no_more_than_asked_for_at_a_time(tmp_path, monkeypatch):
    """No real processes: what is started is written down, and ends when it is looked at the second time."""
    started, at_work, most = [], set(), []

    class Process:
        stdin, returncode = None, 0

        def __init__(self, job):
            self.job, self.looks = job, 0
            started.append(job.device)
            at_work.add(self)
            most.append(len(at_work))

        def poll(self):
            self.looks += 1
            if self.looks > 1:
                at_work.discard(self)
                return 0
            return None

    monkeypatch.setattr(local, "_start", Process)
    monkeypatch.setattr(local, "_PAUSE", 0)
    configs = make_grid(TrainConfig(), {"seed": range(5)}).configs
    jobs = [Job(config, tmp_path, tmp_path / "f", tmp_path / "l") for config in configs]
    ended = list(run_local(jobs, 2, ["cuda:0", "cuda:1"]))
    assert sorted(job.config.seed for job in ended) == [0, 1, 2, 3, 4]
    assert max(most) == 2
    assert set(started) == {"cuda:0", "cuda:1"}


def test_a_job_survives_its_command_line(tmp_path):
    config = TrainConfig(rho=0.1, eval_data=("demo-cdf",), strength=2.0)
    job = Job(config, tmp_path / "a", tmp_path / "b", tmp_path / "c", threads=3, device="cpu", function="x:y")
    assert Job.from_json(job.to_json()) == job
    assert Job.from_json(job.to_json()).config.key == config.key


def test_a_failed_run_is_told_in_a_line():
    row = {"status": "failed", "message": "no luck"}
    assert line(TrainConfig(rho=0.1), row, ["data", "rho"]) == "demo-nt, rho 0.1: failed: no luck"


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(ProbeError, match=r"expected a table at .*sweep.csv, but it cannot be read"):
        read_table(tmp_path)
