import json
import math
from dataclasses import replace

import pytest

from gsnr_toolkit import Report, estimate_gsnr
from gsnr_toolkit.report import formats
from gsnr_toolkit.report.markdown import to_markdown
from gsnr_toolkit.report.numbers import cor_text, interval
from gsnr_toolkit.support.lookup import Registry, UnknownNameError


def test_every_format_writes_the_files_it_names(report, tmp_path):
    for name, row in formats.FORMATS.rows.items():
        folder = tmp_path / name
        files = formats.write_formats(report, folder, [name])
        assert files
        assert sorted(files) == sorted(folder.iterdir())
        assert not row.file or files == [folder / row.file]


def test_all_formats_share_a_folder_and_replace_their_own_files(report, tmp_path):
    files = formats.write_formats(report, tmp_path, formats.FORMATS.names)
    assert len(set(files)) == len(files)
    changed = replace(report, notes=("changed",))
    formats.write_formats(changed, tmp_path, ["tables", "html", "json", "markdown"])
    assert Report.load(tmp_path).notes == ("changed",)
    for name in ("report.html", "document.json", "report.md"):
        assert "changed" in (tmp_path / name).read_text(encoding="utf8")
    assert json.loads((tmp_path / "document.json").read_text(encoding="utf8"))["verdict"] == changed.verdict


def test_a_format_is_one_file_and_one_row(report, tmp_path, monkeypatch):
    (tmp_path / "verdict_format.py").write_text(
        "def write(report, path):\n    path.write_text(report.verdict)\n    return [path]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows = {**formats.FORMATS.rows, "verdict": formats.Format("verdict_format:write", "verdict.txt")}
    monkeypatch.setattr(formats, "FORMATS", Registry("output format", rows))
    (path,) = formats.write_formats(report, tmp_path / "run", ["verdict"])
    assert path == tmp_path / "run" / "verdict.txt"
    assert path.read_text() == report.verdict


def test_an_unknown_format_is_refused_before_anything_is_written(report, tmp_path):
    with pytest.raises(UnknownNameError, match=r"'markdwon'.*'markdown'"):
        formats.write_formats(report, tmp_path / "run", ["tables", "markdwon"])
    assert not (tmp_path / "run").exists()


def test_markdown_holds_the_verdict_and_every_layer(report):
    groups = report.layers["group"].drop_duplicates().tolist()
    odd = replace(report, layers=report.layers.replace({"group": {groups[0]: "a|b"}}), notes=("one",))
    lines = to_markdown(odd).splitlines()
    assert lines[0] == odd.verdict
    assert lines[2] == "| layer | COR | GSNR | n |"
    assert [line.partition(" | ")[0] for line in lines[4:-2]] == [
        f"| {name}" for name in ("a\\|b", *groups[1:], "whole model")
    ]
    assert {line.replace("\\|", "").count("|") for line in lines[2:-2]} == {5}
    assert lines[-1] == "Note: one"


def test_a_report_without_cor_has_every_format(loader, tmp_path):
    from torch import nn

    report = estimate_gsnr(nn.Linear(6, 1), loader, progress=False)
    files = formats.write_formats(report, tmp_path, [name for name in formats.FORMATS if name != "tables"])
    assert {path.name for path in files} == {"layers.png", "layers.pdf", "report.html", "document.json", "report.md"}
    assert "COR |" not in (tmp_path / "report.md").read_text(encoding="utf8")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "0.006 [0.005, 0.008]"),
        ({"status": "above_max_radius", "cor": math.inf}, "> 0.2"),
        ({"status": "no_signal", "cor": math.nan}, "no signal, at most 0.008"),
        ({"status": "no_signal", "cor": math.nan, "cor_high": math.inf}, "no signal"),
        ({"status": "undefined", "cor": math.nan, "cor_low": math.nan, "cor_high": math.nan}, "undefined"),
    ],
)
def test_a_cor_of_every_status_is_written_in_one_way(changes, text):
    row = {"status": "ok", "cor": 0.006, "cor_low": 0.005, "cor_high": 0.008, **changes}
    assert cor_text(row, "> 0.2") == text


def test_an_interval_of_nothing_is_undefined():
    nothing = {"gsnr": math.nan, "gsnr_low": math.nan, "gsnr_high": math.nan}
    assert interval(nothing, "gsnr") == "undefined"
    assert interval({**nothing, "gsnr": 1.0}, "gsnr") == "1"
