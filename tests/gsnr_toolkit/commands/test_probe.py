import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from typer.main import get_command

from gsnr_toolkit import ProbeError, Report
from gsnr_toolkit.commands import probe as cli
from gsnr_toolkit.commands import probe_run as runner
from gsnr_toolkit.commands.probe_request import API_ONLY, ProbeRequest, check_folder
from gsnr_toolkit.inputs.options import ProbeOptions
from gsnr_toolkit.report.outcome import collapse_outcome
from gsnr_toolkit.support.locks import locked

SMALL = [
    "--samples",
    "16",
    "-b",
    "4",
    "--steps",
    "1",
    "--measurements",
    "2",
    "--radii",
    "0.01,0.1,1",
    "--tuning",
    "last-1",
]


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Run the command in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["gsnr-probe", *arguments])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capfd.readouterr()
        return exited.value.code or 0, out, err

    return call


def test_a_small_run_end_to_end(run, tmp_path):
    code, out, err = run(*SMALL, "--out", "here")
    assert code == 0, err
    assert " rho = 0.05 " in out
    assert "clip-demo on demo-nt" in out
    assert "margin radius" in out
    assert 'suggestion     rho = "auto"' in out
    assert "block 8" in out
    report = Report.load(tmp_path / "here")
    assert report.totals["step"].tolist() == [0, 1]
    assert not report.partial
    assert report.settings["caption"] == "embedded data"
    assert report.provenance["model"]["model"] == "clip-demo"
    names = {path.name for path in (tmp_path / "here").iterdir()}
    assert {"report.json", "layers.csv", "drift.csv", "overview.png", "layers.pdf", "trajectory_cor.png"} <= names
    # once more into the same folder with the same settings: fine; with others: refused before any work
    code, _, err = run(*SMALL, "--out", "here", "--rho", "0.2")
    assert code == 2
    assert "rho 0.05 there, 0.2 here" in err
    assert "--overwrite" in err


def test_json_is_alone_on_stdout_and_the_default_folder_is_named_by_the_settings(run, tmp_path):
    code, out, _ = run(*SMALL, "--json", "--data", "demo-df", "--steps", "0")
    assert code == 0
    found = json.loads(out)
    assert found["settings"]["request"]["data"] == "demo-df"
    (folder,) = (tmp_path / "gsnr-reports").iterdir()
    assert folder.name.startswith("clip-demo_demo-df_")


def test_quiet_prints_the_verdict_only(run):
    code, out, err = run(*SMALL, "--quiet", "--steps", "0", "--layerwise", "readout")
    assert code == 0, err
    assert len(out.strip().splitlines()) == 1
    assert "rho = 0.05" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "clip-dmeo"], "Did you mean 'clip-demo'"),
        (["--model", "clip-vit-l14", "--weights", "/no/such.pt"], "/no/such.pt"),
        (["--data", "demo-tn"], "Did you mean 'demo-nt'"),
        (["--data", "nt", "--data-root", "/nowhere"], "'/nowhere' is not a folder"),
        (["--data", "image-folder:/nowhere"], "/nowhere"),
        (["--tuning", "norm"], "Did you mean 'norms'"),
        (["--radii", "small,large"], "increasing radii, such as 0.01,0.03,0.1, got 'small,large'"),
        (["--radii", "0.1,0.01"], "increasing radii"),
        (["--radii", "0.01,,0.1"], "increasing radii"),
        (["--rho", "-1"], "positive radius"),
        (["--rho", "inf"], "positive radius"),
        (["--radii", "0.1,inf"], "increasing radii"),
        (["--seed", "-1"], "seed to be an integer from 0"),
        (["--seed", str(2**63)], "seed to be an integer from 0"),
        (["--strength", "-1"], "strength to be at least 0"),
        (["--strength", "nan"], "strength to be at least 0"),
        (["--data", "json:dumps"], "'json:dumps' failed with TypeError"),
        (["--model", "json:dumps"], "'json:dumps' failed with TypeError"),
        (["--memory", "much"], "memory size"),
        (["--dtype", "int8"], "'float32', 'float64'"),
        (["--samples", "3"], "raise samples to at least 96 (or to at least 8, with a batch size of 2)"),
        (["--samples", "7"], "raise samples to at least 96 (or to at least 8, with a batch size of 2)"),
        (["--samples", "4", "--batch-size", "2"], "raise samples to at least 8"),
        (["--samples", "64"], "raise samples to at least 96, or lower the batch size to at most 16"),
        (["--batch-size", "1"], "batch size of at least 2"),
        (["--samples", "16", "--batch-size", "8"], "at least 4 mini-batches"),
        (["--device", "cuda:99"], "--device cpu"),
        (["--split", "trian"], "Did you mean 'train'"),
        (["--perturb", "none"], "perturb to be one of"),
        (["--groups", "layer"], "groups to be 'block'"),
        (["--lr", "-1"], "positive learning rate"),
        (["--steps", "-1"], "expected steps to be a whole number from 0, got -1"),
        (["--measurements", "0"], "expected measurements to be a whole number from 1, got 0"),
        (["--engine", "tap"], "Did you mean 'taps'?"),
        (["--confidence", "95"], "between 0 and 1"),
        (["--engine", "warp"], "engine to be one of"),
        (["--compression", "c23"], "compression"),
    ],
)
def test_wrong_ways_are_one_message_without_a_traceback(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err + out


def test_an_unknown_option_is_explained(run):
    code, _, err = run("--rh", "0.1")
    assert code == 2
    assert "No such option" in err


def test_version_and_list(run):
    code, out, _ = run("--version")
    assert code == 0
    assert re.match(r"gsnr-probe \d+\.\d+", out)
    code, out, _ = run("--list")
    assert code == 0
    for name in ("clip-demo", "clip-vit-l14", "demo-nt", "nt", "celebdf-v2"):
        assert name in out


def test_every_setting_is_an_option_with_its_default_and_help_or_is_named_as_one_of_python_alone():
    options = {option.name: option for option in get_command(cli.app).params}
    request = ProbeRequest()
    for config in (request, request.options):
        for field in fields(config):
            if field.name == "options" or field.name in API_ONLY:
                assert field.name not in options
                continue
            assert options[field.name].default == getattr(config, field.name), field.name
            assert options[field.name].help == field.metadata["help"]
    assert set(API_ONLY) <= {field.name for field in fields(ProbeOptions)}


def test_every_option_reaches_the_request(monkeypatch):
    """Every option of the command line changes the request, and the field of its own name."""
    given = {
        "model": "clip-lab", "weights": "random", "data": "demo-df", "data_root": "x", "split": "val", "strength": "2",
        "compression": "c40", "tuning": "head", "steps": "7", "measurements": "4", "lr": "0.5", "samples": "300",
        "device": "cpu", "dtype": "float64", "groups": "module", "layerwise": "readout", "include_frozen": None,
        "engine": "loop", "seed": "9", "memory": "2kB", "detail": "group", "rho": "0.3", "radii": "0.1,1",
        "perturb": "group", "batch_size": "8", "confidence": "0.9", "lipschitz": None,
    }  # fmt: skip
    default = ProbeRequest().to_dict()
    assert given.keys() == default.keys()
    seen = []
    monkeypatch.setattr(cli, "_run", lambda request, *_, **__: (seen.append(request.to_dict()), (None, 0))[1])
    for name, text in given.items():
        arguments = [f"--{name.replace('_', '-')}", *([] if text is None else [text])]
        with pytest.raises(SystemExit) as exited:
            cli.app(arguments)
        assert not exited.value.code
        changed = {key for key, value in seen[-1].items() if value != default[key]}
        assert changed == {name}
    assert seen[list(given).index("memory")]["memory"] == 2000
    assert seen[list(given).index("radii")]["radii"] == (0.1, 1.0)
    assert seen[list(given).index("steps")]["steps"] == 7


def test_settings_of_python_alone_are_saved_only_if_they_were_set():
    assert not set(API_ONLY) & set(ProbeRequest().to_dict())
    assert ProbeRequest.of(refine=3).to_dict()["refine"] == 3


class _FakeReport:
    """A report of two steps, of which the first is fine."""

    def __init__(self, status="ok", zone=False, partial=False):
        rows = [("ok", 0.1, 0.2), (status, 0.01 if zone or status != "ok" else 0.1, 0.04 if zone else 0.2)]
        self.outcomes = [
            collapse_outcome(dict(zip(("status", "cor_low", "cor_high"), row, strict=True)), 0.05) for row in rows
        ]
        self.partial = partial


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (_FakeReport(zone=True), 3),
        (_FakeReport(status="no_signal", zone=True), 4),
        (_FakeReport(status="no_signal"), 4),
        (_FakeReport(status="undefined"), 4),
        (_FakeReport(status="above_max_radius"), 4),
        (_FakeReport(), 0),
        (_FakeReport(partial=True), 130),
    ],
)
def test_exit_codes(report, code):
    assert cli.collapse_code(report) == code


def test_fail_in_collapse_zone_is_wired(run, monkeypatch):
    monkeypatch.setattr(cli, "collapse_code", lambda report: 3)
    assert run(*SMALL, "--quiet", "--steps", "0", "--layerwise", "readout", "--fail-in-collapse-zone")[0] == 3


def test_a_folder_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ValueError, match="was not written by gsnr-probe"):
        check_folder(tmp_path, ProbeRequest())


def test_a_report_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "report.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ProbeError, match="was not written by gsnr-probe"):
        check_folder(tmp_path, ProbeRequest())
    check_folder(tmp_path, ProbeRequest(), overwrite=True)


@pytest.mark.parametrize("out", ["file", "file/inside", "x" * 300])
@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(run, monkeypatch, tmp_path, out, flags):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(runner, "run_probe", lambda *a, **k: pytest.fail("work was begun"))
    code, _, err = run("--out", out, *flags)
    assert code == 2
    assert "folder that can be written" in err
    assert "choose another --out" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_looking_at_a_folder_leaves_nothing_there(tmp_path):
    check_folder(tmp_path / "new" / "deep", ProbeRequest())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    check_folder(tmp_path / "old", ProbeRequest())
    assert list((tmp_path / "old").iterdir()) == []


def test_ctrl_c_while_drawing_says_what_is_saved(run, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gsnr_toolkit.report.formats.write_formats", interrupted)
    small = [*SMALL, "--quiet", "--steps", "0", "--layerwise", "readout"]
    code, out, err = run(*small, "--out", "here")
    assert code == 130
    assert "rho = 0.05" in out
    assert "the report is saved in here, its figures are incomplete" in " ".join(err.split())
    assert not Report.load(tmp_path / "here").partial
    monkeypatch.setattr(cli, "collapse_code", lambda report: 0)
    assert run(*small, "--fail-in-collapse-zone")[0] == 130


def test_the_largest_seed_runs(run):
    code, _, err = run(*SMALL, "--quiet", "--layerwise", "readout", "--seed", str(2**63 - 1))
    assert code == 0, err


def test_requests_are_keyed_by_every_setting():
    changed = [{}, {"seed": 1}, {"rho": 0.1}, {"data": "demo-df"}, {"refine": 2}]
    assert len({ProbeRequest.of(**values).key for values in changed}) == 5
    assert ProbeRequest().key == ProbeRequest().key


@pytest.mark.skipif(os.name == "nt", reason="SIGINT to a child works differently there")
def test_ctrl_c_leaves_a_valid_partial_report(tmp_path):
    """Interrupt after the first measured step: the report of that step is on disk, and says so."""
    command = [sys.executable, "-m", "gsnr_toolkit", *SMALL, "--steps", "5000", "--out", str(tmp_path / "run")]
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    summary = tmp_path / "run" / "report.json"
    deadline = time.monotonic() + 180
    while not summary.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted: partial report of step 0" in err
    assert " rho = 0.05 " in out
    report = Report.load(tmp_path / "run")
    assert report.partial
    assert report.totals["step"].tolist() == [0]


def test_an_empty_value_is_the_default_of_an_optional_option():
    settings = {item.name: item.default for item in fields(ProbeRequest) if item.name != "options"}
    settings |= {"memory": None, "device": "", "split": "", "weights": ""}
    assert cli._read_request(settings) == ProbeRequest()


def test_a_second_probe_of_the_same_folder_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gsnr-probe", "--steps", "0", "--quiet", "--out", str(tmp_path)])
    with locked(tmp_path), pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "is working on it already; end that run first, or choose another folder (--out)" in capsys.readouterr().err
