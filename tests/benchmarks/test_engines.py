"""The benchmark of engines by its own command: rows for methods that work, and for methods that fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.comparison.agreement import agreement
from benchmarks.comparison.methods import METHODS, Method, deliver, find_method
from benchmarks.comparison.one_case import Case
from benchmarks.comparison.settings import build_setting
from benchmarks.comparison.table import figure_of, markdown, note
from benchmarks.engines import add_memory_ratios, measure

ROOT = Path(__file__).parents[2]

INJECTED = """
import os, signal, time

from benchmarks.comparison.methods import MOMENTS, Method

def _raises(setting, chunk_size):
    raise ValueError("no rule for this layer\\nand more of it")

def _killed(setting, chunk_size):
    os.kill(os.getpid(), signal.SIGKILL)

def _sleeps(setting, chunk_size):
    time.sleep(600)

RAISES, KILLED, SLEEPS = (Method("peer", "moments", MOMENTS, prepare) for prepare in (_raises, _killed, _sleeps))
"""


def _command(folder, methods, output, *options):
    command = [sys.executable, "-m", "benchmarks.engines", "--models", "mlp", "--methods", *methods, "--batch", "3"]
    command += ["--repeats", "2", "--threads", "1", "--output", str(output), *options]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    (folder / "injected.py").write_text(INJECTED)
    methods = ["vmap", "loop", "injected:RAISES", "injected:KILLED"]
    return folder, _command(folder, methods, folder / "engines.json")


@pytest.mark.slow
def test_an_interrupted_run_is_resumed(run, tmp_path, rows):
    kept = {
        "provenance": None,
        "rows": [rows["plain"], {**rows["loop"], "failure": "stopped after 1 s", "seconds": 1e9}],
    }
    (tmp_path / "engines.json").write_text(json.dumps(kept))
    _command(run[0], ["loop"], tmp_path / "engines.json", "--resume")
    found = {row["method"]: row for row in json.loads((tmp_path / "engines.json").read_text())["rows"]}
    assert found["plain"] == rows["plain"]
    assert found["loop"]["failure"] is None
    assert found["loop"]["seconds"] < 1e9


@pytest.fixture(scope="module")
def document(run):
    return json.loads((run[0] / "engines.json").read_text())


@pytest.fixture(scope="module")
def rows(document):
    return {row["method"]: row for row in document["rows"]}


def test_plain_comes_first_and_every_method_has_a_row(document):
    names = [row["method"] for row in document["rows"]]
    assert names == ["plain", "vmap", "loop", "injected:RAISES", "injected:KILLED"]
    assert {row["model"] for row in document["rows"]} == {"mlp"}


@pytest.mark.parametrize("method", ["plain", "vmap", "loop"])
def test_a_measured_row_is_complete(rows, method):
    row = rows[method]
    assert row["failure"] is None
    assert (row["covers"], row["missed"], row["tensors"]) == (1.0, 0, 4)
    assert 0 < row["difference"] < 1e-5  # float32 against float64: never exactly equal
    assert 0 < row["time_low"] <= row["time_ratio"] <= row["time_high"]
    assert row["idle_gib"] <= row["peak_gib"]
    assert row["memory_ratio"] == row["peak_gib"] / rows["plain"]["peak_gib"]


def test_a_method_that_raises_is_a_row_with_the_first_line_of_its_error(rows):
    row = rows["injected:RAISES"]
    assert row["failure"] == "ValueError: no rule for this layer"
    assert row["num_params"] == rows["loop"]["num_params"]  # earlier results are kept
    assert "time_ratio" not in row


def test_a_killed_method_has_a_row_that_says_so(rows):
    assert rows["injected:KILLED"]["failure"] == "killed by SIGKILL (out of memory?)"
    assert rows["injected:KILLED"]["memory_ratio"] is None


def test_a_method_that_never_ends_is_stopped(tmp_path, monkeypatch):
    (tmp_path / "injected.py").write_text(INJECTED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    row = measure(Case("mlp", "injected:SLEEPS", 2, 1), timeout=0.5)
    assert row["failure"] == "stopped after 0.5 s"


def test_provenance_describes_the_machine(document):
    provenance = document["provenance"]
    assert provenance["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"opacus", "backpack-for-pytorch", "torchjd", "traker"} <= provenance["versions"].keys()
    assert provenance["threads"] == 1
    assert provenance["cpu"]
    assert provenance["command"][:5] == ["python", "-m", "benchmarks.engines", "--models", "mlp"]


def test_the_printed_table_has_a_line_for_each_row(run, document):
    lines = run[1].strip().splitlines()
    assert len(lines) == 2 + len(document["rows"])
    assert lines == markdown(document["rows"]).splitlines()
    assert "ValueError: no rule for this layer" in lines[5]
    assert len({line.count("|") for line in lines}) == 1


def test_the_figure_is_written_and_names_every_method(run, document):
    assert (run[0] / "engines.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    figure = figure_of(document["rows"])
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert sorted(labels) == sorted(["plain", "vmap", "loop", "RAISES", "KILLED"])
    remarks = {text.get_text() for text in figure.axes[0].texts}
    assert any(remark.startswith("ValueError: no rule") for remark in remarks)


def test_the_parent_process_loads_nothing_heavy():
    script = "import sys, benchmarks.engines; print(*{'torch', 'numpy', 'matplotlib'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_an_unknown_method_is_refused_with_the_known_ones():
    command = [sys.executable, "-m", "benchmarks.engines", "--methods", "opacus-hook"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean 'opacus-hooks'?" in done.stderr


def _agreement(method, name="mlp"):
    setting, exact = build_setting(name, 3), build_setting(name, 3, dtype=torch.float64)
    return agreement(method, method.prepare(setting, 2), setting, exact)


def _tampered(change):
    # the moments of our loop, changed before they are returned
    def prepare(setting, chunk_size):
        worker = METHODS["loop"].prepare(setting, chunk_size)

        def moments(batch):
            found = worker(batch)
            change(found)
            return found

        return moments

    return Method("peer", "moments", "", prepare)


def test_a_wrong_second_moment_is_found():
    wrong = _agreement(_tampered(lambda found: found.m2["0.bias"].mul_(1.5)))
    assert wrong["difference"] == pytest.approx(0.5, rel=1e-4)
    assert note(wrong) == "differs by 5e-01"


def test_a_result_of_nan_is_found():
    wrong = _agreement(_tampered(lambda found: found.mean["2.bias"].fill_(float("nan"))))
    assert wrong["difference"] != wrong["difference"]


def test_missed_parameters_are_counted():
    partial = _agreement(_tampered(lambda found: (found.mean.pop("0.weight"), found.m2.pop("0.weight"))))
    assert (partial["missed"], partial["tensors"]) == (1, 4)
    assert partial["covers"] == pytest.approx(257 / (64 * 128 + 257))  # 128 biases, 128 weights and a bias of the head
    assert note(partial) == "covers 3 %, misses 1 of 4 tensors"
    assert note({**partial, "difference": 0.5}).startswith("differs by 5e-01, covers 3 %")


def test_memory_is_compared_within_a_model():
    rows = [
        {"model": "a", "method": "plain", "peak_gib": 2.0},
        {"model": "a", "method": "loop", "peak_gib": 3.0},
        {"model": "b", "method": "loop", "peak_gib": 3.0},
    ]
    add_memory_ratios(rows)
    assert [row["memory_ratio"] for row in rows] == [1.0, 1.5, None]


LIBRARIES = {"opacus": "opacus", "backpack": "backpack", "torchjd": "torchjd", "trak": "trak"}
PEERS = [name for name in METHODS if METHODS[name].family == "peer"]


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_agrees_with_the_loop(name):
    pytest.importorskip(LIBRARIES[name.partition("-")[0]])
    found = _agreement(METHODS[name])
    assert found["covers"] == 1.0
    assert found["difference"] < 1e-5


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_can_be_run_again(name):
    pytest.importorskip(LIBRARIES[name.partition("-")[0]])
    method, setting = find_method(name), build_setting("mlp", 3)
    worker = method.prepare(setting, 2)
    first, second = (deliver(method, worker, setting.batch) for _ in range(2))
    for left, right in zip(*(_tensors(found) for found in (first, second)), strict=True):
        torch.testing.assert_close(left, right)


def _tensors(found):
    parts = [found.mean, found.m2] if hasattr(found, "m2") else [found]
    return [part[name] for part in parts for name in sorted(part)]


@pytest.mark.filterwarnings("ignore:Extension saving to")
@pytest.mark.parametrize("extension", ["gradients", "variance", "norms"])
def test_backpack_misses_a_third_of_a_vision_transformer(extension):
    pytest.importorskip("backpack")
    found = _agreement(METHODS[f"backpack-{extension}"], "clip-demo")
    assert 0.6 < found["covers"] < 0.7
    assert found["difference"] < 1e-3
