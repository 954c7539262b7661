import base64
import hashlib
import math
import re
from dataclasses import replace

import pandas as pd
import pytest
from torch import nn

from gsnr_toolkit import ProbeError, estimate_cor, estimate_gsnr
from gsnr_toolkit.report.pages.answer import answer_of
from gsnr_toolkit.report.pages.probe import probe_page
from tests.support.page_parser import Page, check_page

HOSTILE = "<script>alert('x')</script>\" onload=\"y&amp;"


@pytest.fixture(scope="module")
def page(report):
    return Page(probe_page(report))


def _with_statuses(report, **total):
    """The report with every status in its layers, and a whole model as told."""
    layers = pd.concat([report.layers.query("step == 0").head(1)] * 4, ignore_index=True)
    layers["group"], layers["depth"] = ["a", "b", "c", "d"], range(4)
    layers["status"] = ["ok", "no_signal", "above_max_radius", "undefined"]
    layers["cor"], layers["cor_low"], layers["cor_high"] = (
        [0.02, math.nan, math.inf, math.nan],
        [0.01, 0.0, 0.06, math.nan],
        [0.03, 0.04, math.inf, math.nan],
    )
    layers["alignment_radius"] = [0.1, math.nan, math.inf, math.nan]
    layers["message"] = ["certified", "too few samples", "beyond", "zero variance"]
    layers["in_collapse_zone"] = [True, True, False, False]
    layers.loc[3, ["gsnr", "gsnr_low", "gsnr_high"]] = math.nan
    totals = report.totals.head(1).assign(status="ok", cor=0.02, cor_low=0.01, cor_high=0.03, in_collapse_zone=True)
    drift = report.drift.query("step == 0 and group == 'total'")
    return replace(
        report, layers=layers, totals=totals.assign(**total), drift=drift, trajectory=report.trajectory.head(1)
    )


def test_the_verdict_comes_first_and_the_caveats_last(report, page):
    assert report.verdict in page.text
    places = [page.text.index(part) for part in (report.verdict, "Layers", "Settings", "What to keep in mind")]
    assert places == sorted(places)
    assert ("section", "class", f"verdict {answer_of(report).tone}") in page.attributes
    order = [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")]
    assert order == ["verdict", "figures", "layers", "steps", "settings", "caveats"]
    assert "COR is a certificate, an if and not an iff" in page.text
    assert "n = 96 samples" in page.text


def test_tables_hold_every_row(report, page):
    step = report.bottleneck.step
    at_step = report.layers.query("step == @step")
    layers = page.table_like(f"layers at step {step}")
    assert [row[0] for row in layers["rows"]] == at_step["group"].tolist()
    assert [row[layers["heads"].index("n")] for row in layers["rows"]] == ["96"] * len(at_step)
    assert [row[0] for row in layers["foot"]] == ["whole model"]
    assert [row[0] for row in layers["marked"]] == ([report.bottleneck.group] if report.bottleneck.group else [])
    assert len(page.table_like("Every layer at every measured step")["rows"]) == len(report.layers)
    steps = page.table_like("whole model at 3 measured steps")
    assert [row[0] for row in steps["rows"]] == [str(step) for step in report.totals["step"]]
    settings = {row[0]: row[1] for row in page.table_like("Every option that changes a number")["rows"]}
    assert settings["rho"] == "0.05"
    assert settings["radii"].startswith("0.001, 0.01, ")
    assert set(settings) >= set(report.settings) - {"request"}
    assert {row[0] for row in page.table_like("Which parameters")["rows"]} == set(report.groups)


def test_cells_are_sorted_by_the_numbers_themselves(report):
    raw = probe_page(_with_statuses(report))
    keys = re.findall(r'data-order="([^"]+)"> *0\.02|data-order="(Infinity)"', raw)
    assert ("0.02", "") in keys
    assert ("", "Infinity") in keys


def test_every_status_says_why_and_with_which_bound(report):
    page = Page(probe_page(_with_statuses(report)))
    table = page.table_like("layers at step 0")
    found = {row[0]: dict(zip(table["heads"], row, strict=True)) for row in table["rows"]}
    assert found["a"]["COR"] == "0.02 [0.01, 0.03]"
    assert found["b"]["COR"] == "no signal at most 0.04"
    assert found["b"]["what it says"] == "too few samples"
    assert found["c"]["COR"] == "> 0.2"
    assert found["c"]["in zone"] == "no"
    assert found["d"]["COR"] == "undefined"
    assert found["d"]["GSNR"] == "undefined"
    assert found["d"]["in zone"] == "undecided"
    assert found["d"]["what it says"] == "zero variance"
    assert "nan" not in page.text.lower().replace("nanosecond", "").split()


@pytest.mark.parametrize(
    ("total", "head", "tone"),
    [
        ({}, "ρ = 0.05 lies in the collapse zone", "bad"),
        ({"cor_high": 0.07}, "ρ = 0.05: undecided", "unsure"),
        ({"status": "no_signal", "cor": math.nan}, "ρ = 0.05: undecided", "unsure"),
        ({"status": "no_signal", "cor": math.nan, "in_collapse_zone": False}, "ρ = 0.05: undecided", "unsure"),
        ({"status": "undefined", "cor": math.nan, "in_collapse_zone": False}, "ρ = 0.05: no answer", "unsure"),
        ({"cor": 0.06, "cor_high": 0.07}, "ρ = 0.05: undecided", "unsure"),
        (
            {"cor": 0.1, "cor_low": 0.07, "cor_high": 0.2, "in_collapse_zone": False},
            "ρ = 0.05 is outside the collapse zone",
            "good",
        ),
        (
            {"status": "above_max_radius", "cor": math.inf, "cor_low": 0.06, "in_collapse_zone": False},
            "outside the collapse zone",
            "good",
        ),
    ],
)
def test_the_answer_in_a_few_words(report, total, head, tone):
    answer = answer_of(_with_statuses(report, **total))
    assert answer.tone == tone
    assert head in answer.head


def test_hostile_names_are_text(report):
    layers = report.layers.assign(group=report.layers["group"].where(report.layers["depth"] > 0, HOSTILE))
    settings = {**report.settings, "model": HOSTILE, "data": HOSTILE, "caption": HOSTILE}
    raw = probe_page(replace(report, layers=layers, settings=settings, notes=(HOSTILE,), groups={HOSTILE: [HOSTILE]}))
    page = Page(raw)
    check_page(page)
    assert len(page.scripts) == 1
    assert "alert" not in page.scripts[0]
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert f"{HOSTILE} on {HOSTILE}" in page.text
    assert "<script>alert" not in raw


@pytest.mark.parametrize("kind", ["probe", "cor", "gsnr", "readout-like"])
def test_every_kind_of_report_has_a_page_that_asks_for_nothing(report, loader, kind):
    if kind == "probe":
        found = report
    elif kind == "cor":
        found = estimate_cor(nn.Linear(6, 1), loader, progress=False)
    elif kind == "gsnr":
        found = estimate_gsnr(nn.Linear(6, 1), loader, progress=False)
    else:
        found = replace(report, escape=None, partial=True, notes=("one", "two"))
    page = Page(probe_page(found))
    check_page(page)
    assert found.verdict in page.text
    assert page.text.count("could not be drawn") == 0
    assert "None" not in page.text
    steps = page.table_like("The whole model at")
    assert [len(row) for row in steps["rows"]] == [len(steps["heads"])] * len(found.totals)
    assert ("mean batch gradient norm" in steps["heads"]) == found.has_cor
    svgs = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(svgs) == {"probe": 6, "cor": 4, "gsnr": 1, "readout-like": 6}[kind]
    assert ("Partial report: the run was interrupted after step" in page.text) == found.partial
    for note in found.notes:
        assert note in page.text


def test_the_policy_lets_the_page_run_its_own_script_and_nothing_else(page):
    (policy,) = [value for tag, name, value in page.attributes if tag == "meta" and "default-src" in value]
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")


def test_without_script_a_table_is_a_plain_table(page):
    assert "button" not in {tag for tag, _, _ in page.attributes}
    assert all(table["heads"] for table in page.tables.values())


def test_a_figure_that_cannot_be_drawn_leaves_its_reason(report):
    layers = report.layers.assign(group=report.layers["group"].where(report.layers["depth"] > 0, r"$\nothing{$"))
    page = Page(probe_page(replace(report, layers=layers)))
    assert "COR by layer could not be drawn:" in page.text
    assert report.verdict.split(";")[0] in page.text


def test_a_run_without_any_cor_frames_no_step(report):
    silent = {"status": "no_signal", "cor": math.nan, "in_collapse_zone": False}
    page = Page(probe_page(replace(report, totals=report.totals.assign(**silent))))
    assert page.table_like("The whole model at 3 measured steps$")["marked"] == []
    assert "The diamond is" not in page.text


def test_many_layers_get_wide_figures(report):
    rows = [report.layers.query("depth == 0").assign(group=f"layer.{i}.weight", depth=i) for i in range(60)]
    many = replace(report, layers=pd.concat(rows, ignore_index=True))
    raw = probe_page(many)
    page = Page(raw)
    check_page(page)
    assert len(page.table_like("60 layers")["rows"]) == 60
    assert len(page.table_like("Every layer at every measured step")["rows"]) == 180
    widths = [float(width) for width in re.findall(r"--natural: ([\d.]+)pt", raw)]
    assert len(widths) == 3
    assert min(widths) > 300


def test_equal_reports_give_equal_pages(report):
    assert probe_page(report) == probe_page(report)


def test_to_html_writes_and_replaces_its_own_pages_only(report, tmp_path):
    path = report.to_html(tmp_path / "new" / "page.html")
    assert path == tmp_path / "new" / "page.html"
    assert path.read_text(encoding="utf8") == probe_page(report)
    replace(report, notes=("changed",)).to_html(path)
    assert "changed" in path.read_text(encoding="utf8")
    other = tmp_path / "mine.html"
    other.write_text("<p>mine</p>")
    with pytest.raises(ProbeError, match=r"mine\.html' is something else; choose another file, or overwrite it"):
        report.to_html(other)
    assert other.read_text() == "<p>mine</p>"
    report.to_html(other, overwrite=True)
    assert report.verdict in Page(other.read_text(encoding="utf8")).text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "expected a file for the page, got the folder"),
        ("file/inside.html", "expected a file that can be written for the page"),
        ("x" * 300, "expected a file that can be written for the page"),
    ],
)
def test_places_that_are_no_file(report, tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ProbeError, match=message):
        report.to_html(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_parser_of_these_tests_sees_requests_and_clashes():
    """Negative control: each of these would be found."""
    page = Page(
        '<link href="https://a/b.css"><style>@import "c"; p { background: url(d.png) }</style><p style="x: url(//e)">'
        '<img src="f"></p><svg id="i"><g id="i" clip-path="url(#gone)"></g></svg><script>fetch("g")</script>'
    )
    assert page.outside == ["https://a/b.css", "f", "//e", "d.png", '@import "c"', "fetch"]
    assert page.ids == ["i", "i"]
    assert page.dangling == ["gone"]
