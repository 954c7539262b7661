import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.preserve import random_state
from gsnr_toolkit.training import run as running
from gsnr_toolkit.training.checkpoint import save_checkpoint
from gsnr_toolkit.training.config import TrainConfig
from gsnr_toolkit.training.run import read_result, run_training

CONFIG = TrainConfig(
    model="tests.support.tiny_detector:tiny_model", data="demo-df", strength=2.0, train_samples=64, eval_samples=40,
    batch_size=8, steps=12, lr=3e-3, rho=0.01, record_every=6, record_samples=32, eval_every=4,
)  # fmt: skip
TIMES = {"seconds"}
ROOT = Path(__file__).parents[3]


def _steady(row):
    return {key: value for key, value in row.items() if key not in TIMES}


def _assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert one[key] == other[key] or (one[key] != one[key] and other[key] != other[key]), key


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run_training(CONFIG, folder, device="cpu")


def test_a_run_writes_everything_and_gives_its_results(finished):
    folder, row = finished
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "log.csv", "evals.csv", "report", "result.json", "provenance.json",
    }  # fmt: skip
    logs, evals = pd.read_csv(folder / "log.csv"), pd.read_csv(folder / "evals.csv")
    assert logs["step"].tolist() == list(range(12))
    assert evals[evals["split"] == "val"]["step"].tolist() == [4, 8, 12]
    assert row["train_loss"] == pytest.approx(logs["loss"].iloc[-1])
    assert row["best_val_auc"] == evals[evals["split"] == "val"]["auc"].max()
    assert pd.read_csv(folder / "report" / "totals.csv")["step"].tolist() == [0, 6, 12]
    assert (logs["grad_norm"] > 0).all()
    assert (row["outcome"], row["steps_on_plateau"]) == ("delayed", 12)  # too early to tell
    assert math.isnan(row["left_at"])
    assert row["key"] == CONFIG.key
    assert row["num_test"] == 40
    assert 0 <= row["test_auc_low"] <= row["test_auc"] <= row["test_auc_high"] <= 1


def test_runs_that_share_open_data_give_the_same_and_draw_once(finished, tmp_path, monkeypatch):
    opened = {}
    first = run_training(CONFIG, tmp_path / "first", device="cpu", opened=opened)
    assert len(opened) == 3  # train, val, test
    kept = dict(opened)
    monkeypatch.setattr(type(next(iter(opened.values()))), "_render", None)  # drawing again would be an error
    second = run_training(replace(CONFIG, rho=0.02), tmp_path / "second", device="cpu", opened=opened)
    assert opened == kept
    _assert_same(_steady(first), _steady(finished[1]))
    assert second["key"] != first["key"]
    monkeypatch.undo()
    run_training(replace(CONFIG, strength=1.0), tmp_path / "third", device="cpu", opened=opened)
    assert len(opened) == 6


def test_a_finished_run_is_not_run_again(finished, monkeypatch):
    folder, row = finished
    monkeypatch.setattr(running, "build_model", None)
    _assert_same(run_training(CONFIG, folder), row)
    _assert_same(read_result(folder, CONFIG), row)


def test_two_runs_are_equal_bit_for_bit_and_leave_the_random_state(finished, tmp_path):
    torch.manual_seed(123)
    state = random_state()
    row = run_training(CONFIG, tmp_path, device="cpu", checkpoint_seconds=0)
    assert random_state() == state
    _assert_same(_steady(row), _steady(finished[1]))
    assert (tmp_path / "log.csv").read_text() == (finished[0] / "log.csv").read_text()


SCRIPT = """
import sys
from gsnr_toolkit.training.config import TrainConfig
from gsnr_toolkit.training import run
import json, torch
torch.set_num_threads({threads})
run.run_training(TrainConfig.from_dict(json.loads(sys.argv[1])), sys.argv[2], device="cpu", checkpoint_seconds=0)
"""


def test_after_kill_9_it_goes_on_bit_for_bit(finished, tmp_path):
    """A process is killed while it trains, from outside; another call goes on from what it left."""
    folder = tmp_path / "run"
    arguments = [json.dumps(CONFIG.to_dict()), str(folder)]
    script = SCRIPT.format(threads=torch.get_num_threads())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", script, *arguments], env=environment) as process:
        deadline = time.monotonic() + 120
        while not (folder / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (folder / "result.json").exists()
    step = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < step < 12
    _assert_same(_steady(run_training(CONFIG, folder, device="cpu")), _steady(finished[1]))
    assert (folder / "log.csv").read_text() == (finished[0] / "log.csv").read_text()
    assert (folder / "report" / "layers.csv").read_text() == (finished[0] / "report" / "layers.csv").read_text()


class _Stop(Exception):
    pass


@pytest.mark.parametrize(
    "changes", [{"rho": "auto"}, {"rho": "cor", "cor_every": 4}, {"optimizer": "sgd", "rho_schedule": "cosine"}]
)
def test_every_kind_of_state_is_resumed(tmp_path, monkeypatch, changes):
    config = replace(CONFIG, steps=8, record_every=0, eval_every=0, **changes)
    whole = run_training(config, tmp_path / "whole", device="cpu")
    save = running._Run.save

    def save_and_break(self):
        save(self)
        if self.done == 5:
            raise _Stop

    with monkeypatch.context() as patch:
        patch.setattr(running._Run, "save", save_and_break)
        with pytest.raises(_Stop):
            run_training(config, tmp_path / "broken", device="cpu", checkpoint_seconds=0)
    _assert_same(_steady(run_training(config, tmp_path / "broken", device="cpu")), _steady(whole))


def test_a_folder_of_another_run_is_refused(finished, tmp_path):
    with pytest.raises(ProbeError, match=r"holds a run with other settings \(rho 0.01 there, 0.02 here\)"):
        run_training(replace(CONFIG, rho=0.02), finished[0])
    (tmp_path / ".config.json.x7").touch()
    assert read_result(tmp_path, CONFIG) is None  # killed before the first file was whole
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ProbeError, match=r"its config.json cannot be read; choose another folder"):
        run_training(CONFIG, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex", ".config.json.x7"}


def test_a_dead_run_is_told_early_and_ended(tmp_path):
    config = replace(CONFIG, label_noise=0.5, lr=1e-7, steps=60, stop_dead=5, record_every=0, eval_every=0)
    row = run_training(config, tmp_path, device="cpu")
    assert (row["status"], row["outcome"]) == ("dead", "delayed")
    assert row["steps_on_plateau"] == row["steps_done"]
    assert (pd.read_csv(tmp_path / "log.csv")["grad_norm"] > 0).all()  # of plain steps too
    assert 20 <= row["steps_done"] < 60
    assert math.isnan(row["cor"])


def test_a_diverged_run_has_no_auc(tmp_path):
    config = replace(CONFIG, optimizer="sgd", momentum=0.0, lr=1e30, steps=12, record_every=0, eval_every=0)
    with pytest.warns(UserWarning, match="not finite"):
        row = run_training(config, tmp_path, device="cpu")
    assert row["status"] == "diverged"
    assert math.isnan(row["test_auc"])
    assert json.loads((tmp_path / "result.json").read_text())["test_auc"] == "nan"


def test_other_data_sets_are_tested_too(tmp_path):
    config = replace(CONFIG, steps=1, record_every=0, eval_every=0, eval_data=("demo-fs",))
    assert 0 <= run_training(config, tmp_path, device="cpu")["auc:demo-fs"] <= 1


def test_a_checkpoint_without_norms_goes_on(tmp_path, broken_off):
    """Of version 0.3: four columns in the log, and a state of the watch that is no longer needed."""
    config = replace(PLAIN, steps=40, stop_dead=30, label_noise=0.5, lr=1e-7)
    folder = broken_off(config)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    old = {**state, "logs": [row[:4] for row in state["logs"]], "watch": {"losses": [0.7], "dead_steps": 0}}
    save_checkpoint(folder / "checkpoint.pt", old)
    resumed, whole = run_training(config, folder, device="cpu"), run_training(config, tmp_path / "whole", device="cpu")
    _assert_same(_steady(resumed), _steady(whole))
    norms = pd.read_csv(folder / "log.csv")["grad_norm"]
    assert norms[:5].isna().all()
    assert (norms[5:] > 0).all()


@pytest.fixture
def broken_off(tmp_path, monkeypatch):
    """Break a run off in its fifth step; return its folder."""

    def break_off(config, name="broken"):
        save = running._Run.save

        def save_and_break(self):
            save(self)
            if self.done == 5:
                raise _Stop

        with monkeypatch.context() as patch:
            patch.setattr(running._Run, "save", save_and_break)
            with pytest.raises(_Stop):
                run_training(config, tmp_path / name, device="cpu", checkpoint_seconds=0)
        return tmp_path / name

    return break_off


PLAIN = replace(CONFIG, steps=8, record_every=0, eval_every=0)


def test_a_checkpoint_of_another_run_is_refused(broken_off):
    folder, other = broken_off(PLAIN), broken_off(replace(PLAIN, rho=0.02), "other")
    whole = (folder / "checkpoint.pt").read_bytes()
    (folder / "checkpoint.pt").write_bytes((other / "checkpoint.pt").read_bytes())
    with pytest.raises(ProbeError, match=rf"a checkpoint of this run \({PLAIN.key}\) in .*; delete the file"):
        run_training(PLAIN, folder, device="cpu")
    torch.save({"format": 1, "step": 3}, folder / "checkpoint.pt")
    with pytest.raises(ProbeError, match=r"but it lacks seconds, model, .*; delete the file to start this run over"):
        run_training(PLAIN, folder, device="cpu")
    (folder / "checkpoint.pt").write_bytes(whole)
    (folder / ".log.csv.abcdefgh.partial").touch()  # of the process that was killed
    run_training(PLAIN, folder, device="cpu")
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_second_process_in_the_folder_is_refused(tmp_path, monkeypatch):
    refusals = []

    def meanwhile(*args, **kwargs):
        with pytest.raises(ProbeError, match=r"is working on it already; end that run first, or choose another folder"):
            run_training(replace(PLAIN, seed=1), tmp_path / "run", device="cpu")
        refusals.append(1)
        raise _Stop

    monkeypatch.setattr(running, "build_model", meanwhile)
    with pytest.raises(_Stop):
        run_training(PLAIN, tmp_path / "run", device="cpu")
    assert refusals
    assert not (tmp_path / "run").exists()  # it failed before its first file


@pytest.mark.parametrize("content", ["", '{"key": "a', "[]", "null"])
def test_a_damaged_result_is_told(content, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PLAIN.to_dict()))
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ProbeError, match=r"result.json to hold the results of a run, .*; delete that file"):
        run_training(PLAIN, tmp_path)


def test_a_place_that_cannot_be_written_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "build_model", None)
    (tmp_path / "file").write_text("a thesis")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/gsnr")):
        with pytest.raises(ProbeError, match=r"^expected .*, but .*; choose another (folder|place)"):
            run_training(PLAIN, folder)
    assert (tmp_path / "file").read_text() == "a thesis"
