"""Every script of the laboratory runs from end to end, on runs of a few steps that they share."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from analyses.collapse import collapse_controls, cor_signs, foretell_collapse


@pytest.mark.slow
def test_foretell_collapse(options, tmp_path, runs):
    foretell_collapse.main(options)
    by_setting = pd.read_csv(tmp_path / "data" / "foretell_collapse.csv")
    assert by_setting["setting"].tolist() == ["df-smoke", "nt-smoke"]
    radii = ["empirical_radius", "empirical_low", "empirical_high", "cor", "escape_radius", "alignment_radius"]
    others = ["half_cosine_radius", "slope_radius", "lipschitz_radius", "sam_edge", "grad_norm", "gsnr"]
    names = ["setting", "family", "tuning", "strength", "learning_rate", "num_seeds"]
    assert {*names, *radii, *others} <= set(by_setting.columns)
    sweep = pd.read_csv(tmp_path / "data" / "foretell_collapse_sweep.csv")
    assert sorted(sweep["rho"].unique())[0] == 0
    assert set(sweep["key"]) <= {path.name for path in (runs / "runs").iterdir()}
    steps = pd.read_csv(tmp_path / "data" / "foretell_collapse_steps.csv")
    assert steps["step"].max() == 24
    curvature = pd.read_csv(tmp_path / "data" / "foretell_collapse_curvature.csv")
    assert curvature["setting"].tolist() == ["df-smoke", "nt-smoke"]
    same = steps.merge(curvature, on=["setting", "seed", "step"], suffixes=("", "_again"))
    assert len(same) == 2
    # the run was made again update by update, and measured on the same images
    np.testing.assert_allclose(same["cor_again"], same["cor"], rtol=1e-6)
    np.testing.assert_allclose(same["grad_norm_again"], same["grad_norm"], rtol=1e-6)


def test_a_setting_with_a_dead_plain_run_has_no_radius(options, tmp_path, runs):
    foretell_collapse.main(options)
    chosen = foretell_collapse.settings(smoke=True)
    sweep = pd.read_csv(tmp_path / "data" / "foretell_collapse_sweep.csv")
    plain = sweep[sweep["rho"] == 0]  # runs of other scripts at other radii may be there
    plain = plain.assign(status="ok", test_auc=0.9, test_auc_low=0.88, test_auc_high=0.92, train_loss=0.3)
    worse = {"status": "dead", "test_auc": 0.5, "test_auc_low": 0.48, "test_auc_high": 0.52, "train_loss": 0.7}
    trained = pd.concat([plain, plain.assign(rho=0.05), plain.assign(rho=0.1, **worse)], ignore_index=True)
    both = foretell_collapse.summarise(chosen, trained, runs).set_index("setting")
    assert both["status"].tolist() == ["ok", "ok"]
    assert np.isfinite(both["empirical_radius"]).all()
    trained.loc[(trained["rho"] == 0) & (trained["setting"] == "df-smoke"), "status"] = "dead"
    one = foretell_collapse.summarise(chosen, trained, runs).set_index("setting")
    assert one["status"].tolist() == [foretell_collapse.DEAD, "ok"]
    radii = ["empirical_radius", "empirical_low", "empirical_high", "middle_radius"]
    assert one.loc["df-smoke", radii].isna().all()
    assert one.loc["df-smoke", "cor"] == both.loc["df-smoke", "cor"] or np.isnan(both.loc["df-smoke", "cor"])


def test_the_middle_of_each_seeds_bracket_is_averaged():
    def run(seed, rho, auc):
        limits = {"test_auc": auc, "test_auc_low": auc - 0.02, "test_auc_high": auc + 0.02}
        return {"setting": "x", "seed": seed, "rho": rho, "status": "ok", "train_loss": 0.3, **limits}

    aucs = {0: {0.0: 0.9, 0.1: 0.8, 0.2: 0.5, 0.4: 0.5}, 1: {0.0: 0.9, 0.1: 0.8, 0.2: 0.7, 0.4: 0.5}}
    sweep = pd.DataFrame([run(seed, rho, auc) for seed, found in aucs.items() for rho, auc in found.items()])
    expected = ((0.1 * 0.2) ** 0.5 * (0.2 * 0.4) ** 0.5) ** 0.5
    assert foretell_collapse.middle_radii(sweep)["x"] == pytest.approx(expected)
    alive = sweep[(sweep["seed"] == 0) | (sweep["rho"] < 0.4)]  # seed 1 has no collapsed radius
    assert foretell_collapse.middle_radii(alive)["x"] != foretell_collapse.middle_radii(alive)["x"]


@pytest.mark.slow
def test_cor_signs(options, tmp_path, monkeypatch):
    monkeypatch.setattr(cor_signs, "AXES", {"batch size": ("batch_size", (8, 16))})
    cor_signs.main([*options, "--families", "df"])
    rows = pd.read_csv(tmp_path / "data" / "cor_signs.csv")
    assert set(rows["axis"]) == set(cor_signs.AXES)
    assert {"total", "head"} <= set(rows["group"])
    axes = pd.read_csv(tmp_path / "data" / "cor_signs_axes.csv")
    assert {"depth", "step"} <= set(axes["axis"])
    both = rows[["gsnr", "gsnr_apart"]].dropna()
    assert len(both) > len(rows) / 4
    assert (both["gsnr"] != both["gsnr_apart"]).all()  # other samples of the same model


def test_gsnr_of_other_samples_shares_no_noise_with_cor():
    rng = np.random.default_rng(0)
    noise = rng.permutation(12) + 1.0
    rows = pd.DataFrame({"step": np.arange(12) * 10, "group": "total", "depth": -1, "cor": noise, "gsnr": noise / 9})
    rows = rows.assign(gsnr_apart=np.flip(noise), signal_fraction=noise, misspecification=1.0, grad_norm=1.0)
    rows = rows.assign(axis="strength", value=1.0, family="df", seed=0, escape_radius=np.nan, escape_lower=np.nan)
    found = cor_signs.summarise(rows).set_index("axis").loc["step"]
    assert found["cor_with_gsnr"] == pytest.approx(1)
    assert found["cor_with_gsnr_apart"] == pytest.approx(spearmanr(noise, np.flip(noise)).statistic)


def test_a_run_on_several_axes_counts_once():
    rng = np.random.default_rng(0)
    run = pd.DataFrame({"step": np.arange(6) * 10, "group": "total", "depth": -1, "cor": rng.random(6) + 0.1})
    run = run.assign(gsnr=rng.random(6), gsnr_apart=rng.random(6), signal_fraction=0.1, misspecification=1.0)
    run = run.assign(grad_norm=1.0, value=1.0, family="df", seed=0, escape_radius=np.nan, escape_lower=np.nan)
    other = run.assign(cor=run["cor"].to_numpy()[::-1], seed=1, axis="strength")
    twice = pd.concat([run.assign(axis="strength"), run.assign(axis="batch size"), other], ignore_index=True)
    found = cor_signs.summarise(twice).set_index("axis").loc["step"]
    assert found["num"] == 2
    expected = [spearmanr(one["cor"], one["gsnr"]).statistic for one in (run, other)]
    assert found["cor_with_gsnr"] == pytest.approx(np.mean(expected))


@pytest.mark.slow
def test_controls(options, tmp_path, monkeypatch):
    monkeypatch.setattr(collapse_controls, "RADII", (0.05,))
    monkeypatch.setattr(collapse_controls, "PAST", (0.05,))
    monkeypatch.setattr(collapse_controls, "ASAM_RADII", (0.5,))
    collapse_controls.main([*options, "--families", "df"])
    table = pd.read_csv(tmp_path / "data" / "collapse_controls.csv").set_index("control")
    assert len(table) == 7
    assert table.loc["plain", "passes"] == 1
    assert table.loc["SAM 0.05", "passes"] == 2
    assert table.loc["SAM 0.05 after 12 plain steps", "passes"] == 1.5
    assert table.loc["COR, safety 1", "passes"] > 1 + 9 * 64 / (8 * 12) - 1e-9
    assert table.loc["SAM 0.05", "rho_last"] == 0.05
    assert 0 <= table.loc["COR, safety 1", "rho_last"] <= 0.2


def test_the_variance_of_log_cor_is_dealt_out_in_full():
    rows = pd.DataFrame(
        {"signal_fraction": [0.1, 0.2, 0.4], "misspecification": [2.0, 2.0, 2.0], "grad_norm": [1.0, 3.0, 2.0]}
    )
    found = cor_signs.shares(rows)
    assert sum(found.values()) == pytest.approx(1)
    assert found["share_misspecification"] == 0
