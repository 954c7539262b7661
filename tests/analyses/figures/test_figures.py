"""Figures: their arithmetic, their marks, and every script from end to end on runs of a few steps."""

import argparse
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import all as everything
from analyses.collapse import laboratory, recordings
from analyses.collapse.collapse_controls_plot import draw_controls
from analyses.figures import attribution, engine_cost, figure1, figure2, figure3, figure4, figure5, gsnr_bias
from analyses.support.families import data_words
from analyses.support.figure import caption_line
from analyses.support.options import chosen_config
from analyses.support.tables import over_seeds, read_table
from gsnr_toolkit import Report, TrainConfig
from gsnr_toolkit.report.plots.style import root_figure, save

STORED = Path(__file__).parents[3] / "figures" / "data"


def _chosen(**values):
    return argparse.Namespace(**{"model": None, "data_root": None, "smoke": False, **values})


def test_means_over_seeds_keep_the_widest_limits_and_hide_no_missing_seed():
    table = pd.DataFrame(
        {
            "family": ["df", "df", "nt", "nt"],
            "gsnr": [1.0, 3.0, 2.0, np.nan],
            "gsnr_low": [0.0, 2.5, 1.0, np.nan],
            "gsnr_high": [1.5, 9.0, 3.0, np.nan],
        }
    )
    found = over_seeds(table, ["family"], "gsnr").set_index("family")
    assert found.loc["df"].tolist() == [2, 2.0, 0.0, 9.0]
    assert math.isnan(found.loc["nt", "gsnr"])


def test_captions_name_the_data():
    assert data_words(["demo-df"]) == "embedded data"
    assert data_words(["nt", "celebdf-v2"]) == "FaceForensics++ (NeuralTextures); celebdf-v2"
    assert caption_line("embedded data", "n = 4").startswith("Data: embedded data.")


def test_real_data_and_another_model_change_what_they_must_and_nothing_else():
    config = TrainConfig(model="clip-lab", data="demo-nt", strength=2.0, lr=1e-3, eval_data=("demo-cdf",))
    assert chosen_config(config, _chosen()) == config
    real = chosen_config(config, _chosen(model="clip-vit-l14", data_root=Path("/data")))
    assert (real.model, real.data, real.data_root, real.strength) == ("clip-vit-l14", "nt", "/data", None)
    assert real.eval_data == ("celebdf-v2",)
    assert real.lr == pytest.approx(1e-4)
    assert (real.steps, real.batch_size, real.seed) == (config.steps, config.batch_size, config.seed)


def test_data_that_are_missing_are_told_before_anything_is_trained(tmp_path, capsys):
    with pytest.raises(SystemExit):
        figure2.main(["--data-root", str(tmp_path / "nowhere"), "--out", str(tmp_path)])
    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_readout_is_recorded_along_the_very_run_that_is_kept(options, tmp_path, runs):
    figure3.main(options)
    table = pd.read_csv(tmp_path / "data" / "recordings.csv")
    assert set(table["reading"]) == {"parameters", "readout"}
    assert set(table["family"]) == {"df", "nt"}
    assert table["step"].unique().tolist() == [0, 12, 24]
    assert set(table["caption"]) == {"embedded data"}
    [config] = [item.run_config(0.0, 0) for item in recordings.family_settings(_chosen(smoke=True))][:1]
    kept = Report.load(laboratory.run_folder(runs, config) / "report")
    again = Report.load(runs / "readouts" / config.key)
    # both were measured on the same images after the same updates: the loss by step tells
    np.testing.assert_allclose(again.trajectory["loss"], kept.trajectory["loss"], rtol=1e-5)
    assert again.settings["layerwise"] == "readout"
    assert {path.name for path in tmp_path.glob("figure3*")} == {
        "figure3.png", "figure3.pdf", "figure3_cor.png", "figure3_cor.pdf",
    }  # fmt: skip


def test_figure1(options, tmp_path):
    figure1.main(options)
    table = pd.read_csv(tmp_path / "data" / "figure1.csv")
    assert set(table["method"]) == {"head", "full"}
    assert set(table["rho"]) == {0.0, 0.05}
    assert len(table) == 2 * 2 * 2  # families, methods, radii
    assert (tmp_path / "figure1.pdf").exists()


def test_figure2(options, tmp_path):
    figure2.main(options)
    table = pd.read_csv(tmp_path / "data" / "figure2.csv")
    assert table.loc[table["rho"] == 0, "cor_status"].notna().all()
    assert (tmp_path / "figure2.png").exists()


def test_figure4_shows_what_the_detector_answers(options, tmp_path):
    figure4.main(options)
    table = read_table(tmp_path / "data", "figure4")
    parts = table[table["kind"].isin(["part", "bias"])]["value"].sum()
    [probability] = table.loc[table["kind"] == "probability", "value"]
    assert 1 / (1 + math.exp(-parts)) == pytest.approx(probability, abs=1e-4)
    assert (tmp_path / "figure4.pdf").exists()


@pytest.mark.slow
def test_figure5(options, tmp_path):
    figure5.main(options)
    table = pd.read_csv(tmp_path / "data" / "figure5.csv")
    assert table.loc[table["domain"] == "own", "test"].unique().tolist() == ["f2f"]
    assert table.groupby("method")["step"].unique().map(list).tolist() == [[0, 8, 16]] * 2
    assert (tmp_path / "figure5.png").exists()


@pytest.mark.slow
def test_bias_of_the_plug_in_is_one_over_n(options, tmp_path):
    gsnr_bias.main(options)
    table = pd.read_csv(tmp_path / "data" / "gsnr_bias.csv")
    assert set(table["case"]) == set(gsnr_bias.CASES)
    rows = pd.DataFrame(gaussian for gaussian in gsnr_bias.gaussian_rows((16,), 60))
    spread = rows["plugin"].std() / math.sqrt(len(rows))
    assert rows["plugin"].mean() == pytest.approx(gsnr_bias.GAUSSIAN_GSNR + 1 / 16, abs=4 * spread)
    assert rows["corrected"].mean() == pytest.approx(gsnr_bias.GAUSSIAN_GSNR, abs=4 * spread)


def test_cost_of_the_engines_is_that_of_the_stored_benchmarks(options, tmp_path):
    engine_cost.main(options)
    table = pd.read_csv(tmp_path / "data" / "engine_cost.csv")
    stored = json.loads((engine_cost.BENCHMARKS / "engines.json").read_text(encoding="utf8"))["rows"]
    assert len(table) >= len(stored)
    assert table["family"].isin(engine_cost.FAMILIES).all()
    assert (tmp_path / "engine_cost.pdf").exists()


def test_a_control_of_which_a_seed_collapsed_is_hollow(tmp_path):
    table = pd.DataFrame(
        {
            "family": ["df", "df", "nt", "nt"], "control": ["plain", "SAM 0.8"] * 2, "num_seeds": 2,
            "test_auc": [0.7, 0.52, 0.9, 0.51], "auc_min": [0.68, 0.5, 0.88, 0.5], "auc_max": [0.72, 0.54, 0.92, 0.52],
            "share_collapsed": [0.0, 0.5, 0.0, 1.0], "passes": [1.0, 2.0, 1.0, 2.0],
        }
    )  # fmt: skip
    figure = draw_controls(table)
    auc, _ = figure.axes
    marks = auc.collections[-1]
    heights = marks.get_offset_transform().transform(marks.get_offsets())[:, 1]
    white = (marks.get_facecolor()[:, :3] == 1).all(axis=1)
    # from top to bottom: both families of "plain", both of "SAM 0.8"
    assert white[np.argsort(-heights)].tolist() == [False, False, True, True]
    assert [label.get_text() for label in auc.get_yticklabels()] == ["plain", "SAM 0.8"]
    save(figure, tmp_path / "controls", formats=["png"])


def test_shares_of_the_attribution_add_up_to_one():
    rows = pd.DataFrame(
        {
            "reading": "readout", "family": "df", "seed": 0, "step": 0, "status": "ok",
            "group": ["a", "b", "c", "total"], "cor": [0.1, 0.2, 0.4, 0.05],
            "signal_fraction": [0.1, 0.3, 0.2, 0.1], "misspecification": [1.0, 2.0, 0.5, 1.0],
            "grad_norm": [1.0, 0.75, 1.0, 2.0],
        }
    )  # fmt: skip
    found = attribution.shares(rows).iloc[0]
    assert found.filter(like="share_").sum() == pytest.approx(1)


@pytest.mark.parametrize("script", [figure1, figure2, figure3, figure4, figure5, attribution, gsnr_bias])
def test_stored_tables_can_be_drawn(script, tmp_path):
    name = script.__name__.rpartition(".")[2]
    needed = {"figure1": ["figure1", "recordings"], "figure3": ["recordings"], "attribution": ["recordings"]}
    if not all((STORED / f"{table}.csv").exists() for table in needed.get(name, [name])):
        pytest.skip(f"the tables of {name} are not stored yet")
    shutil.copytree(STORED, tmp_path / "data")
    script.main(["--replot", "--out", str(tmp_path / "data")])
    pictures = sorted(tmp_path.glob("*.png"))
    assert pictures
    assert all(path.with_suffix(".pdf").exists() for path in pictures)


def test_the_enlarged_panel_shows_the_box(tmp_path):
    runs = pd.DataFrame(
        {
            "data": "demo-nt", "model": "clip-lab", "rho": [0.0, 0.02, 0.05, 0.1], "seed": 0, "status": "ok",
            "train_loss": [0.2, 0.3, 0.3, 0.693], "test_auc": [0.9, 0.9, 0.8, 0.5], "num_test": 800,
            "test_auc_low": [0.88, 0.87, 0.77, 0.48], "test_auc_high": [0.92, 0.92, 0.83, 0.52],
        }
    )  # fmt: skip
    whole, near = figure2.draw(runs).axes[:2]
    assert near.get_xlim() == pytest.approx(figure2.ZOOM)
    [box] = [patch for patch in whole.patches if not patch.get_fill()]
    assert box.get_x() == pytest.approx(figure2.ZOOM[0])
    assert root_figure(whole) is root_figure(near)


def test_all_goes_on_after_a_failing_script(tmp_path, monkeypatch, capsys):
    seen = []

    def broken(name, arguments):
        seen.append((name, arguments))
        return "RuntimeError: no" if name == "figure1" else None

    monkeypatch.setattr(everything, "run_script", broken)
    out = ["--out", str(tmp_path / "data"), "--runs", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        everything.main(["--replot", "--only", "figure1,figure4", *out])
    assert stop.value.code == 1
    assert [name for name, _ in seen] == ["figure1", "figure4"]
    assert seen[0][1][:1] == ["--replot"]
    assert "failed: figure1" in capsys.readouterr().out


def test_all_names_the_files_that_each_script_wrote(tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "untouched.csv").write_text("")
    writes = {"figure1": [tmp_path / "one.png", tmp_path / "one.pdf"], "figure4": [data / "two.csv"]}
    monkeypatch.setattr(
        everything, "run_script", lambda name, _: [path.write_text(name) for path in writes[name]] and None
    )
    everything.main(["--replot", "--only", "figure1,figure4", "--out", str(data)])
    rows = [line for line in capsys.readouterr().out.splitlines() if "figure" in line and "│" in line]
    assert ["one.png" in line for line in rows] == [True, False]
    assert ["two.csv" in line for line in rows] == [False, True]


def test_all_says_what_went_wrong_in_a_script(tmp_path):
    message = everything.run_script("figure4", ["--replot", "--out", str(tmp_path / "data")])
    assert message.startswith("FileNotFoundError: expected the table")
    assert everything.run_script("figure4", ["--no-such-option"]) == "exit status 2"


@pytest.mark.slow
def test_all_runs_independent_scripts_side_by_side(tmp_path):
    arguments = ["--replot", "--out", str(tmp_path / "data")]
    found = everything.run_group(["corit_ladder", "corit_ablation"], arguments, [tmp_path], 2)
    assert list(found) == ["corit_ladder", "corit_ablation"]
    for problem, seconds, made in found.values():
        assert "corit" in problem  # neither has a table to draw from
        assert seconds > 0
        assert made == []


def test_files_of_scripts_side_by_side_are_told_by_their_names(tmp_path, monkeypatch):
    def both(work, names, *, workers):
        for name in names:
            (tmp_path / f"{name}_parts.png").write_text("")
        return [(None, 1.0) for _ in names]

    monkeypatch.setattr(everything, "spread", both)
    found = everything.run_group(["corit_ladder", "corit_proxy"], [], [tmp_path], 2)
    assert [item.made for item in found.values()] == [["corit_ladder_parts.png"], ["corit_proxy_parts.png"]]


def test_all_refuses_a_script_that_is_none(capsys):
    with pytest.raises(SystemExit):
        everything.main(["--only", "figure9"])
    assert "no script is called figure9" in capsys.readouterr().err
