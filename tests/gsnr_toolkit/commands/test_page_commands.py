"""``gsnr-probe --html`` and ``gsnr-sweep report``: where the page goes, and the wrong ways."""

import json
import shlex
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from gsnr_toolkit import Report, estimate_cor
from gsnr_toolkit.commands import probe as cli
from gsnr_toolkit.commands import probe_run as runner
from gsnr_toolkit.commands import sweep as sweep_cli
from tests.support.fake_sweep import make_sweep
from tests.support.page_parser import Page

SMALL = "--samples 16 -b 4 --steps 0 --radii 0.01,0.1,1 --layerwise readout --out here"


@pytest.fixture
def call(monkeypatch, capfd, tmp_path):
    """Run a command in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(module, command):
        monkeypatch.setattr(sys, "argv", ["gsnr", *shlex.split(command)])
        with pytest.raises(SystemExit) as exited:
            module.main()
        out, err = capfd.readouterr()
        return exited.value.code or 0, out, err

    return run


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory):
    with pytest.warns(UserWarning, match="mind the gap"):
        return make_sweep(tmp_path_factory.mktemp("sweep") / "sweep", {"rho": [0, 0.05]})


def test_the_probe_writes_its_page_beside_the_report(call, tmp_path):
    code, _, err = call(cli, f"{SMALL} --html")
    assert code == 0, err
    assert "report.html" in err
    page = Page((tmp_path / "here" / "report.html").read_text(encoding="utf8"))
    assert Report.load(tmp_path / "here").verdict in page.text


@pytest.fixture
def made(monkeypatch):
    """What the next probe finds, in no time."""
    torch.manual_seed(0)
    inputs = torch.randn(32, 4)
    report = estimate_cor(nn.Linear(4, 1), [(inputs, (inputs[:, 0] > 0).long())], progress=False)
    monkeypatch.setattr("gsnr_toolkit.report.plots.save_all.save_plots", lambda *args: [])
    return lambda note: monkeypatch.setattr(runner, "run_probe", lambda *a, **k: [replace(report, notes=(note,))])


def test_a_page_is_written_when_asked_for_and_then_kept_up_to_date(call, made, tmp_path):
    page = tmp_path / "here" / "report.html"
    made("first")
    assert call(cli, f"{SMALL} --quiet")[0] == 0
    assert not page.exists()
    code, _, err = call(cli, f"{SMALL} --quiet --overwrite --html")
    assert (code, err) == (0, "")
    assert "first" in page.read_text(encoding="utf8")
    made("second")
    assert call(cli, f"{SMALL} --quiet --overwrite")[0] == 0
    assert "second" in page.read_text(encoding="utf8"), "no page of an earlier report stays beside this one"


def test_the_probe_refuses_a_file_that_is_not_ours_before_any_work(call, monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "run_probe", lambda *a, **k: pytest.fail("work was begun"))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "report.html").write_text("mine")
    code, _, err = call(cli, f"{SMALL} --html")
    assert code == 2
    assert "report.html' is something else; choose another file, or overwrite it" in err
    assert (tmp_path / "here" / "report.html").read_text() == "mine"


def test_the_sweep_writes_its_page(call, sweep_folder, tmp_path):
    code, out, err = call(sweep_cli, f"report {sweep_folder} --to page.html")
    assert (code, out) == (0, "page.html\n"), err
    first = (tmp_path / "page.html").read_text(encoding="utf8")
    assert "ρ = 0.05 on" in Page(first).text
    code, out, err = call(sweep_cli, f"report {sweep_folder} --to page.html --rho 0")
    assert code == 0, err
    assert (tmp_path / "page.html").read_text(encoding="utf8") != first, "rho = 0.05 is no longer marked"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("report empty", "to hold a sweep, but its sweep.json cannot be read"),
        ("report nowhere", "to hold a sweep, but its sweep.json cannot be read"),
        ("report SWEEP --to mine.txt", "'mine.txt' is something else; choose another file, or overwrite it"),
        ("report SWEEP --to empty", "expected a file for the page, got the folder 'empty'"),
        ("report SWEEP --to mine.txt/page.html", "expected a file that can be written for the page"),
        ("--rho 0 report SWEEP", "expected no options before 'report', got rho; remove them"),
    ],
)
def test_wrong_ways_are_one_message(call, sweep_folder, tmp_path, command, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    code, out, err = call(sweep_cli, command.replace("SWEEP", shlex.quote(str(sweep_folder))))
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in out + err
    assert (tmp_path / "mine.txt").read_text() == "mine"
    code, out, err = call(sweep_cli, f"report {shlex.quote(str(sweep_folder))} --to mine.txt --overwrite")
    assert code == 0, err


def test_further_formats_are_written_beside_the_report(call, made, tmp_path):
    made("one")
    code, _, err = call(cli, f"{SMALL} --format markdown,json")
    assert code == 0, err
    assert "report.md" in err
    assert "document.json" in err
    report = Report.load(tmp_path / "here")
    assert report.verdict in (tmp_path / "here" / "report.md").read_text(encoding="utf8")
    assert json.loads((tmp_path / "here" / "document.json").read_text(encoding="utf8"))["verdict"] == report.verdict


def test_an_unknown_format_is_refused_before_any_work(call, monkeypatch):
    monkeypatch.setattr(runner, "run_probe", lambda *a, **k: pytest.fail("work was begun"))
    code, _, err = call(cli, f"{SMALL} --format markdwon")
    assert code == 2
    assert "expected a known output format, got 'markdwon'" in err
    assert "Did you mean 'markdown'" in err
