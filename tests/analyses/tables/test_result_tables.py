import numpy as np
import pandas as pd
import pytest

from analyses.tables.own_tables import own_tables
from analyses.tables.result_tables import beside_published, main, write_tables
from gsnr_toolkit.errors import ProbeError

OURS = pd.DataFrame(
    {
        "benchmark": "FF++ c23", "metric": "video AUC", "method": "CoRIT_1", "test": ["CDFv2", "CDFv2", "DFD"],
        "seed": [0, 1, 0], "value": [90.0, 92.0, 80.0],
    }
)  # fmt: skip


def test_ours_and_theirs_stand_in_one_table_and_say_where_they_come_from():
    table = beside_published(OURS)["FF++ c23"]
    assert table.loc["CoRIT_1", "source"] == "measured here"
    assert float(table.loc["CoRIT_1", "CDFv2"]) == 91
    assert table.loc["SBI, EfficientNet-B4", "source"] == "reported by SBI (CVPR 2022)"
    others = table.drop(index="CoRIT_1")
    assert others["source"].str.startswith("reported by ").all()


def test_a_table_without_a_column_is_refused():
    with pytest.raises(ProbeError, match="none called value"):
        beside_published(OURS.drop(columns="value"))


def test_three_formats_hold_the_same_numbers(tmp_path):
    paths = write_tables(beside_published(OURS)["FF++ c23"], tmp_path / "t", "caption")
    markdown, csv, latex = (path.read_text(encoding="utf8") for path in paths)
    assert "| CoRIT_1 | 91.0 | 80.0 | – |" in markdown
    assert r"\toprule" in latex
    assert r"CoRIT\_1 & 91.0 & 80.0 & --" in latex
    assert pd.read_csv(paths[1]).loc[0, "CDFv2"] == 91
    assert csv.count("\n") == markdown.count("\n") - 3


def test_the_script_writes_a_table_for_each_benchmark(tmp_path):
    main(["--out", str(tmp_path / "data")])
    names = {path.name for path in (tmp_path / "data").iterdir()}
    assert {"table_ff_c23.md", "table_genimage_sd_v1_4.tex", "table_universalfakedetect.csv"} <= names


def test_what_foretells_and_what_it_costs(tmp_path):
    """The best order first, the guess that measures nothing last; failed cases have a row without numbers."""
    measured = {"spearman": 0.5, "spearman_low": -0.04, "spearman_high": 0.8, "calibrated_factor": 1.55,
                "calibrated_low": 1.2, "calibrated_high": 2.0, "calibration": 3.4, "num_settings": 17, "scope": "all",
                "target": "middle_radius"}  # fmt: skip
    nothing = {"spearman": np.nan, "spearman_low": np.nan, "spearman_high": np.nan}
    undefined = dict.fromkeys(measured, np.nan) | {"num_settings": 3, "scope": "all", "target": "middle_radius"}
    scores = [
        {"candidate": "constant", **measured, **nothing},
        {"candidate": "cor", **measured},
        {"candidate": "lipschitz_radius", **measured, "spearman": 0.6},
        {"candidate": "gsnr", **measured, "scope": "full"},
        {"candidate": "alignment_radius", **undefined},
        {"candidate": "cor", **measured, "spearman": 0.4, "target": "empirical_radius"},
    ]
    pd.DataFrame(scores).to_csv(tmp_path / "foretell_collapse_scores.csv", index=False)
    early = [{"candidate": "cor", **measured, "last_step": last, "num_settings": 14 + last // 100} for last in (0, 300)]
    pd.DataFrame(early).to_csv(tmp_path / "foretell_collapse_early.csv", index=False)
    row = {"model": "m", "batch": 4, "gives": "moments", "family": "ours", "time_ratio": 1.1, "time_low": 1.0,
           "time_high": 1.2, "memory_ratio": 1.5, "covers": 0.66, "cpu": "a processor"}  # fmt: skip
    failed = dict.fromkeys(("time_ratio", "time_low", "time_high", "memory_ratio", "covers"), np.nan)
    cases = [{**row, "method": "plain", "family": "plain"}, {**row, "method": "taps"}]
    cases.append({**row, "method": "other", "family": "peer", **failed})
    pd.DataFrame(cases).to_csv(tmp_path / "engine_cost.csv", index=False)
    tables = own_tables(tmp_path)
    foretold, cost = tables["foretell"][0], tables["cost"][0]
    assert [name.split()[0] for name in foretold.index] == ["gradient", "COR", "one"]
    assert foretold.iloc[1].tolist() == [
        "0.50 [-0.04, 0.80]",
        "1.6 [1.2, 2.0]",
        "3.4",
        17,
        "0.40 [-0.04, 0.80]",
        "1.6 [1.2, 2.0]",
    ]
    assert foretold.iloc[0].tolist()[-2:] == ["–", "–"]  # nothing scored against the first failing radius
    assert foretold.iloc[2]["rank correlation"] == "–"
    early_on = tables["foretell_early"][0].loc["COR (Definition 1)"]
    assert early_on.to_dict() == {
        "before training": "0.50 [-0.04, 0.80], n = 14", "to step 300": "0.50 [-0.04, 0.80], n = 17",
    }  # fmt: skip
    expected = ["taps", "moments", "1.10 [1.00, 1.20]", "1.50", "66 %", "a processor"]
    assert cost.loc["m, batch 4"].iloc[0].tolist() == expected
    assert cost.iloc[1].tolist() == ["other", "moments", "–", "–", "–", "a processor"]
