import pandas as pd
import pytest

from analyses.result_tables import beside_published, main, write_tables
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
