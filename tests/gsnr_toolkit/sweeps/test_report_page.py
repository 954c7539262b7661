import math

import pandas as pd
import pytest

from gsnr_toolkit import ProbeError, collapse_radii
from gsnr_toolkit.sweeps.report_page import save_page, sweep_page
from gsnr_toolkit.sweeps.table import read_table
from tests.support.fake_sweep import make_sweep
from tests.support.page_parser import Page, check_page

HOSTILE = "<img src=x onerror=alert(1)>&'\""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six runs of two data sets that collapse at 0.05, and one radius that always fails."""
    axes = {"data": ["demo-nt", "demo-df"], "rho": [0, 0.01, 0.05, 0.5]}
    with pytest.warns(UserWarning, match="mind the gap"):
        return make_sweep(tmp_path_factory.mktemp("sweep") / "my sweep", axes)


@pytest.fixture(scope="module")
def page(folder):
    path = save_page(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf8"))


def test_the_answer_comes_first(folder, page):
    radii = collapse_radii(read_table(folder))
    assert "Training collapses from ρ = 0.05 on" in page.text
    assert radii["message"][0] in page.text
    assert "8 runs: 4 ok, 2 dead, 2 failed" in page.text
    order = [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")]
    assert order == ["verdict", "trouble", "radii", "figures", "runs", "settings", "caveats"]
    check_page(page)


def test_failed_and_dead_runs_are_named(page):
    assert "2 runs failed: ValueError: no luck: demo-nt, rho 0.5, seed 0; demo-df, rho 0.5, seed 0" in page.text
    assert "2 runs dead: the loss is still on the plateau of ln 2: demo-nt, rho 0.05, seed 0" in page.text


def test_the_tables_are_those_of_the_sweep(folder, page):
    table = read_table(folder)
    runs = page.table_like("runs that have ended")
    assert [row[-1] for row in runs["rows"]] == table["key"].tolist()
    column = {name: [row[runs["heads"].index(name)] for row in runs["rows"]] for name in runs["heads"]}
    assert column["status"] == table["status"].tolist()
    assert [float(value) for value in column["rho"]] == table["rho"].tolist()
    assert column["test AUC"][0] == "0.900 [0.880, 0.920]"
    assert column["n test"][0] == "800"
    failed = table.index[table["status"] == "failed"][0]
    assert column["test AUC"][failed] == "none"
    assert column["message"][failed] == "ValueError: no luck"
    radii = page.table_like("2 settings")
    found = [dict(zip(radii["heads"], row, strict=True)) for row in radii["rows"]]
    assert [row["data"] for row in found] == ["demo-nt", "demo-df"]
    assert {row["collapse radius"] for row in found} == {"0.05 [0.01, 0.05]"}
    assert {row["COR at rho = 0"] for row in found} == {"0.02 [0.015, inf]"}
    assert found[0]["what it is"] == collapse_radii(table)["message"][0]
    settings = {row[0]: row[1] for row in page.table_like("Settings of the runs")["rows"]}
    assert settings["rho"] == "0, 0.01, 0.05, 0.5"
    assert settings["batch_size"] == "32"


def _table(**changes):
    runs = {
        "key": ["a", "b", "c", "d"], "status": "ok", "message": None, "data": "demo-nt", "rho": [0.0, 0.01, 0.05, 0.1],
        "seed": 0, "train_loss": 0.3, "test_auc": 0.9, "test_auc_low": 0.88, "test_auc_high": 0.92, "num_test": 800,
    }  # fmt: skip
    return pd.DataFrame({**runs, **changes})


@pytest.mark.parametrize(
    ("changes", "head", "tone", "cell"),
    [
        ({}, "No collapse up to ρ = 0.1", "good", "> 0.1"),
        ({"test_auc": 0.5, "test_auc_low": 0.48, "test_auc_high": 0.52}, "No collapse radius", "unsure", "none"),
        ({"test_auc_low": 0.5}, "No collapse can be told: no training is clearly above chance", "unsure", "> 0.1"),
        ({"status": "failed"}, "No run has come to an end", "unsure", "none"),
        (
            {"test_auc": [0.9, 0.5] * 2, "test_auc_low": [0.88, 0.48] * 2, "test_auc_high": [0.92, 0.52] * 2},
            "Training collapses from ρ = 0.01 on", "bad", "0.01 [0, 0.1]",
        ),
        (
            {"test_auc": [0.56, 0.57, 0.5, 0.5], "test_auc_low": [0.53, 0.54, 0.48, 0.48],
             "test_auc_high": [0.59, 0.6, 0.52, 0.52]},
            "No collapse can be told: at the smallest radius no training is clearly above chance", "unsure",
            "0.05 [0, 0.05]",
        ),
    ],
)  # fmt: skip
def test_every_kind_of_answer(changes, head, tone, cell):
    raw = sweep_page(_table(**changes), "sweep", names={})
    page = Page(raw)
    assert head in page.text
    assert f'class="verdict {tone}"' in raw
    assert page.table_like("1 setting;")["rows"][0][1] == cell
    assert ("could not be drawn: expected ended runs at a fixed radius" in page.text) == (
        changes == {"status": "failed"}
    )
    check_page(page)


def test_a_setting_at_chance_does_not_hide_one_that_collapses():
    noisy = _table(
        data="noisy", key=list("efgh"), test_auc=[0.56, 0.57, 0.5, 0.5], test_auc_low=[0.53, 0.54, 0.48, 0.48],
        test_auc_high=[0.59, 0.6, 0.52, 0.52],
    )  # fmt: skip
    clear = _table(test_auc=[0.9, 0.9, 0.9, 0.5], test_auc_low=[0.88] * 3 + [0.48], test_auc_high=[0.92] * 3 + [0.52])
    page = Page(sweep_page(pd.concat([noisy, clear]), "sweep", names={}))
    assert "Training collapses from ρ = 0.1 on" in page.text


def test_many_settings_without_an_answer_do_not_fill_the_head():
    chance = {"test_auc": 0.5, "test_auc_low": 0.48, "test_auc_high": 0.52}
    table = pd.concat([_table(data=f"set-{i}", key=[f"{i}{k}" for k in "abcd"], **chance) for i in range(9)])
    page = Page(sweep_page(table, "sweep", names={}))
    assert "set-5: undefined: at chance without SAM" in page.text
    assert "3 more in the table below." in page.text
    assert len(page.table_like("9 settings")["rows"]) == 9


def test_a_panel_for_everything_but_the_data_that_varies():
    table = pd.concat([_table(tuning=tuning, key=list(tuning[:4])) for tuning in ("full", "norms", "head")])
    page = Page(sweep_page(table, "sweep", names={}))
    svgs = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert [label.partition(".")[0] for label in svgs] == ["tuning full", "tuning norms", "tuning head"]
    check_page(page)


def test_auto_radii_and_cor_without_a_value_are_words():
    extra = {"cor": [math.nan, 0.02, math.inf, 0.1], "cor_low": 0.01, "cor_high": 0.2}
    table = _table(rho=["0", "0.01", "0.05", "auto"], cor_status=["no_signal", "ok", "above_max_radius", None], **extra)
    runs = Page(sweep_page(table, "sweep", names={}))
    found = runs.table_like("runs that have ended")
    column = {name: [row[found["heads"].index(name)] for row in found["rows"]] for name in found["heads"]}
    assert column["rho"] == ["0", "0.01", "0.05", "auto"]
    assert column["COR"] == ["no signal at most 0.2", "0.02 [0.01, 0.2]", "above those tried", "not recorded"]
    assert runs.table_like("1 setting;")["rows"][0][2] == "no_signal"


def test_hostile_names_are_text():
    table = _table(data=HOSTILE, message=HOSTILE, status=["ok", "ok", "dead", "failed"])
    raw = sweep_page(
        table, HOSTILE, names={"c": HOSTILE, "d": HOSTILE}, unfinished=[HOSTILE], grid={HOSTILE: [HOSTILE]}
    )
    page = Page(raw)
    check_page(page)
    assert "img" not in {tag for tag, _, _ in page.attributes}
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert f"1 run failed: {HOSTILE}: {HOSTILE}" in page.text
    assert f"1 run not ended yet: {HOSTILE}" in page.text
    assert raw.count("<script>") == 1


def test_a_folder_without_a_sweep_or_without_ended_runs(folder, tmp_path):
    with pytest.raises(ProbeError, match=r"to hold a sweep, but its sweep\.json cannot be read"):
        save_page(tmp_path)
    (tmp_path / "sweep.json").write_bytes((folder / "sweep.json").read_bytes())
    with pytest.raises(ProbeError, match=r"expected a run that has ended in .*, got none of 8; resume the sweep"):
        save_page(tmp_path)
    (tmp_path / "sweep.csv").write_text("key,status,message\n")
    with pytest.raises(ProbeError, match="got none of 8"):
        save_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_sweep_of_failures_alone_has_a_page(tmp_path):
    page = Page(save_page(make_sweep(tmp_path / "sweep", {"rho": [0.5], "seed": [0, 1]})).read_text(encoding="utf8"))
    check_page(page)
    assert "No run has come to an end" in page.text
    assert "2 runs failed: ValueError: no luck: demo-nt, rho 0.5, seed 0; demo-nt, rho 0.5, seed 1" in page.text
    assert len(page.table_like("2 runs that have ended")["rows"]) == 2


def test_runs_that_have_not_ended_are_named(folder, tmp_path):
    (tmp_path / "sweep.json").write_bytes((folder / "sweep.json").read_bytes())
    read_table(folder).head(3).to_csv(tmp_path / "sweep.csv", index=False)
    page = Page(save_page(tmp_path).read_text(encoding="utf8"))
    assert "8 runs: " in page.text
    assert "5 not ended" in page.text
    assert "5 runs not ended yet: demo-nt, rho 0.5, seed 0" in page.text or "demo-df, rho 0.5, seed 0" in page.text
