import json
import math
from dataclasses import replace

import pandas as pd
import pytest
from torch import nn

from gsnr_toolkit import ProbeError, Report, estimate_cor, estimate_gsnr
from gsnr_toolkit.report.verdict import number

TABLES = ("layers", "totals", "drift", "trajectory")


def test_round_trip_is_exact(report, tmp_path):
    loaded = Report.load(report.save(tmp_path / "run"))
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(report, name), check_exact=True)
    assert loaded.verdict == report.verdict
    assert loaded.bottleneck == report.bottleneck
    assert loaded.escape == report.escape or math.isnan(report.escape.value)
    assert loaded.settings == json.loads(json.dumps(report.settings))
    assert loaded.groups == report.groups
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "drift.csv",
        "layers.csv",
        "report.json",
        "totals.csv",
        "trajectory.csv",
    ]


def test_the_checksums_hold_where_lines_end_otherwise(report, tmp_path, monkeypatch):
    monkeypatch.setattr("os.linesep", "\r\n")  # as on Windows
    assert "\r" not in "".join(report.to_texts().values())
    assert Report.load(report.save(tmp_path)).verdict == report.verdict


def test_a_gsnr_report_round_trips_too(loader, tmp_path):
    report = estimate_gsnr(nn.Linear(6, 1), loader, progress=False)
    loaded = Report.load(report.save(tmp_path))
    pd.testing.assert_frame_equal(loaded.layers, report.layers, check_exact=True)
    assert loaded.drift.empty
    assert not loaded.has_cor
    assert loaded.verdict == report.verdict


def test_a_folder_with_other_settings_is_refused(loader, tmp_path):
    estimate_cor(nn.Linear(6, 1), loader, progress=False).save(tmp_path)
    other = estimate_cor(nn.Linear(6, 1), loader, rho=0.1, progress=False)
    with pytest.raises(ProbeError, match=r"rho 0.05 there, 0.1 here"):
        other.save(tmp_path)
    assert Report.load(tmp_path).settings["rho"] == 0.05
    other.save(tmp_path, overwrite=True)
    assert Report.load(tmp_path).settings["rho"] == 0.1


def test_a_failed_write_leaves_the_old_file(report, tmp_path, monkeypatch):
    report.save(tmp_path)
    before = (tmp_path / "layers.csv").read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        report.save(tmp_path)
    assert (tmp_path / "layers.csv").read_text() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_loading_what_is_not_a_report(report, tmp_path):
    with pytest.raises(ProbeError, match=r"hold report\.json"):
        Report.load(tmp_path)
    report.save(tmp_path)
    summary = json.loads((tmp_path / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps({**summary, "format": 99}))
    with pytest.raises(ProbeError, match="format 1, got 99"):
        Report.load(tmp_path)


def test_to_frame_is_a_copy(report):
    frame = report.to_frame()
    frame["gsnr"] = 0.0
    assert report.layers["gsnr"].abs().sum() > 0


def test_json_is_strict_and_complete(report):
    found = json.loads(report.to_json(), parse_constant=lambda text: pytest.fail(f"not JSON: {text}"))
    assert {"verdict", "cor", "bottleneck", "layers", "totals", "settings", "provenance"} <= found.keys()
    assert len(found["layers"]) == len(report.layers)
    assert found["layers"][0]["group"] == report.layers["group"].iloc[0]


def test_provenance_says_where_it_came_from(report):
    assert {"torch", "numpy", "gsnr-toolkit"} <= report.provenance["versions"].keys()
    assert {
        "created",
        "command",
        "device",
        "dtype",
        "threads",
        "git_commit",
        "wall_seconds",
    } <= report.provenance.keys()
    assert report.settings["num_samples"] == 96
    assert report.settings["seed"] == 0


def test_the_bottleneck_is_the_smallest_cor_over_steps(report):
    finite = report.totals["cor"].min()
    assert report.cor == finite
    step = report.totals.loc[report.totals["cor"].idxmin(), "step"]
    assert report.bottleneck.step == step
    layers = report.layers.query("step == @step and status == 'ok'")
    expected = None if layers.empty else layers.loc[layers["cor"].idxmin(), "group"]
    assert report.bottleneck.group == expected


def test_plot_draws_both_kinds(report, loader):
    assert len(report.plot().axes) >= 3
    assert len(estimate_gsnr(nn.Linear(6, 1), loader, progress=False).plot().axes) == 1


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (-0.00312, "-0.0031"), (123456, "120000"), (1e-9, "1e-09")])
def test_numbers_in_two_digits(value, text):
    assert number(value) == text


def test_steps_without_a_signal_are_named_with_their_upper_limit(report):
    """A step that lies inside the collapse zone decides; the others are named."""
    totals = report.totals.copy()
    totals["status"], totals["cor"], totals["cor_low"], totals["cor_high"] = "ok", 0.03, 0.02, 0.04
    totals.loc[1, ["status", "cor", "cor_low", "cor_high"]] = ["no_signal", math.nan, 0.0, 0.017]
    changed = replace(report, totals=totals)
    assert changed.outcomes[:2] == ["inside", "undecided"]
    assert f"At step {totals['step'][1]} (at most 0.017) COR is indistinguishable from zero." in changed.verdict
    totals.loc[1, "cor_high"] = math.inf
    assert f"At step {totals['step'][1]} COR is indistinguishable" in replace(report, totals=totals).verdict


def test_no_step_certifies_what_another_does_not(report):
    totals = report.totals.copy()
    totals["status"], totals["cor"], totals["cor_low"], totals["cor_high"] = "ok", 0.5, 0.4, 0.6
    assert replace(report, totals=totals).verdict.startswith("rho = 0.05 is outside")
    totals.loc[1, ["status", "cor", "cor_low", "cor_high"]] = ["no_signal", math.nan, 0.0, 0.6]
    changed = replace(report, totals=totals)
    assert changed.bottleneck.step == totals["step"][1]
    assert changed.verdict.startswith("Undecided for rho = 0.05")
    assert changed.cor == 0.5  # the smallest among the steps that have one


def test_what_is_no_report_is_told(report, tmp_path):
    (tmp_path / "file").write_text("no report")
    with pytest.raises(ProbeError, match=r"expected .*/file to hold report.json, .* give the folder"):
        Report.load(tmp_path / "file")
    (tmp_path / "report.json").write_bytes(b"\xff\x00")
    with pytest.raises(ProbeError, match="give the folder that Report"):
        Report.load(tmp_path)
    with pytest.raises(ProbeError, match="expected a folder, got the file"):
        report.save(tmp_path / "file")
    with pytest.raises(ProbeError, match="choose another folder or overwrite it"):
        report.save(tmp_path)  # over a file that is no report


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"format": 1}', '{"format": 1, "sha256": 3}'])
def test_a_damaged_summary_is_told(content, report):
    with pytest.raises(ProbeError, match=r"expected .*; (give the files that Report.save wrote|measure and save)"):
        Report.from_texts({**report.to_texts(), "report.json": content})


def test_tables_of_another_moment_are_refused(report, tmp_path):
    """A process that is killed while it replaces a report leaves new tables beside the old summary."""
    report.save(tmp_path)
    assert Report.load(tmp_path).to_texts() == report.to_texts()
    text = (tmp_path / "layers.csv").read_text()
    (tmp_path / "layers.csv").write_text(text.replace("0.", "1.", 1))
    with pytest.raises(ProbeError, match=r"but layers.csv changed since, or .*; measure again"):
        Report.load(tmp_path)
    summary = json.loads((tmp_path / "report.json").read_text())
    del summary["sha256"]  # as the message says, and as reports of version 0.2.0 are
    (tmp_path / "report.json").write_text(json.dumps(summary))
    assert Report.load(tmp_path).cor == pytest.approx(report.cor, nan_ok=True)
