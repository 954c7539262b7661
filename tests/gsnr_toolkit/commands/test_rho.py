"""``gsnr-rho`` on a small model, and how it refuses."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from gsnr_toolkit import RhoSearch
from gsnr_toolkit.commands.rho import app

SMALL = [
    "--model", "clip-lab", "--data", "demo-df", "--strength", "4", "--train-samples", "64", "--tuning", "head",
    "--lr", "0.03", "--batch-size", "16",
]  # fmt: skip


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def test_a_search_end_to_end_and_again(run, tmp_path):
    done = run(*SMALL, "--radii", "0.01,0.02", "--out", "found", "--plot")
    assert done.exit_code == 0, done.output
    assert "leaves the plateau" in done.output
    assert done.output.rstrip().endswith(f"train with rho = {RhoSearch.load(tmp_path / 'found').rho:g}")
    assert "forward-backward passes in all" in done.output
    assert (tmp_path / "found" / "rho.png").exists()
    trials = pd.read_csv(tmp_path / "found" / "trials.csv")
    assert trials["rho"].tolist() == [0, 0.01, 0.02]
    again = run(*SMALL, "--radii", "0.01,0.02", "--out", "found", "--json")
    assert json.loads(again.output)["trials"] == json.loads(trials.to_json(orient="records"))


def test_no_radius_exits_with_1_and_says_what_to_do(run):
    done = run(*SMALL, "--max-steps", 5, "--quiet")
    assert done.exit_code == 1
    assert done.output.startswith("the budget ended before the bracket was narrow")
    assert done.output.rstrip().endswith('train with rho = "auto"')


def test_ctrl_c_exits_with_130(run, monkeypatch):
    from gsnr_toolkit.search import trial

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(trial.Start, "run", interrupted)
    assert run(*SMALL, "--quiet").exit_code == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--radii", "a,b"], "expected --radii to be numbers separated by commas, got 'a,b'"),
        (["--plot"], "expected a folder for the figure, got none"),
        (["--tuning", "some"], "tuning"),
        (["--seeds", "0"], "expected seeds to be a whole number from 1"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_arguments_are_one_sentence(run, arguments, message):
    from gsnr_toolkit.errors import ProbeError

    done = run(*SMALL, *arguments)
    assert isinstance(done.exception, ProbeError)
    assert message in str(done.exception)
