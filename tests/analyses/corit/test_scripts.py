"""The studies of CoRIT run from end to end, on a few images, and go on where they were."""

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.corit import ablation as corit_ablation
from analyses.corit import baselines as corit_baselines
from analyses.corit import evaluation as corit_evaluation
from analyses.corit import ladder as corit_ladder
from analyses.corit import proxy as corit_proxy
from analyses.corit.features import FAMILIES, Bench, fit_path
from analyses.corit.heads import Split, choose_rate, fit_head
from analyses.corit.ladder import patch_shares
from analyses.tables import result_tables


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def options(runs, tmp_path):
    return ["--smoke", "--seeds", "1", "--runs", str(runs), "--out", str(tmp_path / "data"), "--device", "cpu"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(corit_ladder, "LAYERS", (0, 2))
    monkeypatch.setattr(corit_baselines, "METHODS", {"CoRIT, shared regions": {"anchors": "shared"}})
    monkeypatch.setattr(corit_baselines, "TUNED", {"LN-tuning": corit_baselines.TUNED["LN-tuning"]})
    kept = (corit_ablation.FULL, "linear probe", "random anchors")
    monkeypatch.setattr(corit_ablation, "VARIANTS", {name: corit_ablation.VARIANTS[name] for name in kept})
    parts = ("every token", "shared anchors, RRM, RSI")
    monkeypatch.setattr(corit_proxy, "PARTS", {name: corit_proxy.PARTS[name] for name in parts})


def figures(tmp_path):
    return {path.name for path in tmp_path.glob("*.p*")}


def test_ladder(options, tmp_path, monkeypatch):
    options += ["--families", "nt"]
    corit_ladder.main(options)
    table = pd.read_csv(tmp_path / "data" / "corit_ladder.csv")
    assert set(table["rung"]) == set(corit_ladder.RUNGS)
    assert set(table["layer"]) == {0, 2}
    # at layer 0 the class token has seen no patch: every image has the same one
    blind = table[(table["rung"] == "class token") & (table["layer"] == 0)]
    assert blind["auc"].tolist() == [0.5]
    monkeypatch.setattr(corit_ladder, "Ladder", None)  # nothing is left to make
    corit_ladder.main(options)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "data" / "corit_ladder.csv"), table)
    corit_ladder.main([*options, "--replot"])
    assert figures(tmp_path) == {"corit_ladder.png", "corit_ladder.pdf"}


@pytest.mark.slow
def test_baselines(options, tmp_path, monkeypatch):
    corit_baselines.main(options)
    table = pd.read_csv(tmp_path / "data" / "corit_baselines.csv")
    assert set(table["method"]) == {"CoRIT, shared regions", "LN-tuning"}
    assert set(table["test"]) == set(FAMILIES)
    radii = pd.read_csv(tmp_path / "data" / "corit_baselines_radii.csv")
    assert {"empirical_radius", "holds_to", "cor", "gsnr", "own_auc", "cross_auc"} <= set(radii.columns)
    assert len(figures(tmp_path)) == 6
    monkeypatch.setattr(corit_baselines, "Extractor", None)
    monkeypatch.setattr("analyses.corit.tuned.train_detector", None)
    corit_baselines.main(options)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "data" / "corit_baselines.csv"), table)


@pytest.mark.slow
def test_ablation(options, tmp_path):
    corit_ablation.main([*options, "--families", "nt"])
    parts = pd.read_csv(tmp_path / "data" / "corit_ablation_parts.csv").set_index("variant")
    assert parts.loc[corit_ablation.FULL, ["own_change", "cross_change"]].tolist() == [0, 0]
    assert parts.loc["linear probe", "cost"] == 1
    # random anchors with RRM need a counterpart, shared regions do not
    assert parts.loc["random anchors", "cost"] > parts.loc[corit_ablation.FULL, "cost"]
    assert figures(tmp_path) == {"corit_ablation.png", "corit_ablation.pdf"}


@pytest.mark.slow
def test_proxy(options, tmp_path):
    corit_proxy.main([*options, "--families", "nt"])
    table = pd.read_csv(tmp_path / "data" / "corit_proxy.csv")
    assert set(table["counterpart"]) == {"self-blended", "own forgery"}
    assert set(table["step"]) == {0, 2}
    ranks = pd.read_csv(tmp_path / "data" / "corit_proxy_ranks.csv")
    assert ranks["spearman"].dropna().between(-1, 1).all()
    assert set(pd.read_csv(tmp_path / "data" / "corit_proxy_parts.csv")["depth"]) == set(range(1, 9))
    assert len(figures(tmp_path)) == 4


def test_seeds_have_training_images_of_their_own():
    split = Split(torch.arange(12.0)[:, None], torch.arange(12) % 2)
    parts = [value for seed in range(3) for value in split.part(seed, 4).features.flatten().tolist()]
    assert parts == split.features.flatten().tolist()


def test_a_head_finds_what_there_is_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    noise = torch.randn(400, 8, generator=generator)
    signal = torch.cat([noise, noise[:, :1] + 2.0 * labels[:, None]], 1)
    for features, low, high in ((signal, 0.95, 1.0), (noise, 0.4, 0.6)):
        parts = Split(features[:200], labels[:200]), Split(features[200:], labels[200:])
        lr = choose_rate(*parts, seed=0, steps=100)
        fitted, recorder = fit_head(*parts, seed=0, steps=100, lr=lr, record=True)
        assert low <= fitted.val_auc <= high
        assert fitted.status == "ok"
        assert len(fitted.losses) == 100
        assert recorder.report.totals["step"].tolist() == [0, 25, 50, 75]


def test_patch_shares_are_means_over_patches():
    masks = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = patch_shares(masks, 4)
    expected = [
        [masks[n, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean() for i in (0, 1) for j in (0, 1)] for n in range(3)
    ]
    np.testing.assert_allclose(found.numpy(), np.array(expected), rtol=1e-6)


def test_holds_to_ends_before_the_first_failure():
    own = pd.DataFrame({"rho": [0.0, 0.1, 0.2, 0.4], "auc": [1.0, 0.95, 0.6, 0.99]})
    assert corit_baselines.holds_to(own) == 0.1


def test_benches_are_told_apart(tmp_path):
    one, other = ({"bench": Bench(strength=strength)} for strength in (1.0, 2.0))
    assert fit_path(tmp_path, one) != fit_path(tmp_path, other)


@pytest.mark.parametrize("extra", [["--model", "clip-vit-l14"], ["--data-root", "somewhere"]])
def test_what_the_study_would_not_look_at_is_refused(extra, capsys):
    with pytest.raises(SystemExit):
        corit_ladder.main([*extra, "--replot"])
    assert "use 'corit train'" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluation_and_its_tables(options, tmp_path, monkeypatch):
    few = ("linear probe", "CoRIT")
    monkeypatch.setattr(corit_evaluation, "METHODS", {name: corit_evaluation.METHODS[name] for name in few})
    corit_evaluation.main(options)
    table = pd.read_csv(tmp_path / "data" / "corit_evaluation.csv")
    assert set(table["data"]) == {"demo-nt", "demo-gan"}
    assert set(table["perturbation"]) == {"none", "jpeg 50"}
    monkeypatch.setattr(corit_evaluation, "train_detector", None)  # nothing is left to make
    corit_evaluation.main(options)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "data" / "corit_evaluation.csv"), table)
    result_tables.main(["--replot", "--out", str(tmp_path / "data")])
    row = table.query("method == 'CoRIT' and data == 'demo-gan' and level == 'video' and measure == 'ap'").iloc[0]
    expected = f"{100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    assert pd.read_csv(tmp_path / "data" / "table_universal.csv", index_col=0).loc["CoRIT", "demo-gan, ap"] == expected
    worse = pd.read_csv(tmp_path / "data" / "table_robustness.csv", index_col=0)
    assert worse.index.tolist() == ["none", "jpeg 50"]
    caption = (tmp_path / "data" / "table_cross_domain.md").read_text(encoding="utf8").splitlines()[0]
    assert "Embedded data, trained on real images and forgeries of demo-nt; n = 32 images" in caption
    assert "mean of 1 seeds" in caption


def test_the_table_of_the_ablation_says_what_changed(tmp_path):
    parts = pd.DataFrame(
        {"trained_on": "nt", "variant": ["full", "without RRM"], "num_seeds": 3, "own_auc": [0.931, 0.862],
         "own_change": [0, -0.069], "own_margin": [0, 0.007], "cross_auc": [0.5, 0.51], "cross_change": [0, 0.01],
         "cross_margin": [0, 0.02], "cost": [1.31, 1.3]}
    )  # fmt: skip
    parts.to_csv(tmp_path / "corit_ablation_parts.csv", index=False)
    result_tables.main(["--replot", "--out", str(tmp_path)])
    latex = (tmp_path / "table_ablation.tex").read_text(encoding="utf8")
    assert "demo-nt & without RRM & 86.2 & -6.9 ± 0.7 & 51.0 & +1.0 ± 2.0 & 1.30" in latex
