"""The study of the failing radius on its smallest setting, from the first run to the figures."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest

from analyses.radius import candidates, controllers, plain, rules, study, traces, trials
from analyses.radius.plain import PHI_RADII, PlainTrace
from analyses.radius.settings import SETTINGS
from gsnr_toolkit.search.trial import Trace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables of both studies on one setting and seed."""
    place = tmp_path_factory.mktemp("radius")
    arguments = ["--only", "wine-mlp", "--seeds", "1", "--runs", str(place / "runs"), "--out", str(place / "data")]
    study.main(arguments)
    controllers.main(arguments)
    return place, arguments


def test_the_tables_have_what_they_promise(folder):
    place, _ = folder
    table = pd.read_csv(place / "data" / "radius_study.csv")
    row = table.iloc[0]
    wanted = {
        "setting", "kind", "real", "held_out", "num_seeds", "plain_steps", "failing_radius", "failing_low",
        "failing_high", "outcome", "margin_radius", "margin_early", "cor", "gsnr", "grad_norm", "find_low", "find_high",
        "find_passes", "sweep_passes",
    }  # fmt: skip
    assert wanted <= set(table.columns)
    assert row["failing_low"] < row["failing_radius"] < row["failing_high"] <= 1.25 * row["failing_low"] * 1.001
    assert row["find_holds"] == 1
    assert row["find_passes"] < row["sweep_passes"] / 3
    runs = pd.read_csv(place / "data" / "radius_controllers.csv").set_index("controller")
    assert {"trained", "score", "best_fixed_score", "passes", "sam_passes", "sharpness"} <= set(runs.columns)
    assert runs["trained"]["plain"]
    assert runs["trained"]["auto"]
    assert runs["passes"]["plain"] == 1
    assert runs["sharpness"]["plain"] > runs["sharpness"]["fixed 0.5"] > 0
    assert runs["best_fixed_score"].nunique() == 1


def test_it_resumes_without_training_again(folder, monkeypatch, capsys):
    place, arguments = folder
    monkeypatch.setattr(study, "study_unit", None)
    monkeypatch.setattr(controllers, "run_control", None)
    before = {path.name: path.read_bytes() for path in (place / "data").glob("*.csv")}
    study.main(arguments)
    controllers.main(arguments)
    assert before == {path.name: path.read_bytes() for path in (place / "data").glob("*.csv")}


def test_figures_come_from_the_tables_alone(folder):
    place, arguments = folder
    for name in ("radius_study.png", "radius_controllers.png"):
        (place / name).unlink()
    study.main([*arguments, "--replot"])
    controllers.main([*arguments, "--replot"])
    assert (place / "radius_study.png").stat().st_size > 10_000
    assert (place / "radius_controllers.png").stat().st_size > 10_000


def test_traces(tmp_path):
    traces.main(["--smoke", "--out", str(tmp_path / "data")])
    table = pd.read_csv(tmp_path / "data" / "radius_traces.csv")
    assert set(table["run"]) == {"plain", "fixed", "auto"}
    assert table.groupby("run")["rho"].max()["fixed"] == 1
    assert (tmp_path / "radius_traces.pdf").exists()


def test_a_setting_without_a_failing_radius_is_named(tmp_path, capsys, folder):
    place, _ = folder
    table = pd.read_csv(place / "data" / "radius_study.csv").assign(failing_radius=math.nan)
    (tmp_path / "data").mkdir()
    table.to_csv(tmp_path / "data" / "radius_study.csv", index=False)
    chosen = SimpleNamespace(out=tmp_path / "data", runs=tmp_path / "runs", only=["wine-mlp"], smoke=False, seeds=1)
    controllers.compute(chosen)
    assert "wine-mlp: no failing radius is stored" in capsys.readouterr().out


def test_sams_objective_along_the_plain_run_is_that_of_its_definition():
    problem = SETTINGS["wine-mlp"].build(0)
    batch = next(iter(problem.loader()))
    params = list(problem.model.parameters())
    loss = problem.loss(problem.model, batch).mean()
    loss.backward()
    norm = math.sqrt(sum(float(param.grad.square().sum()) for param in params))
    found = plain._objective(problem, batch, params, 0.3 / norm)
    with torch.no_grad():
        for param in params:
            param += 0.3 * param.grad / norm
        expected = float(problem.loss(problem.model, batch).mean())
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_true_margin_is_where_the_objective_crosses_the_plateau():
    steps = list(range(0, 60, 5))
    losses = [0.7 - 0.01 * step for step in range(60)]
    phi = [[losses[step] + 0.5 * rho for rho in PHI_RADII] for step in steps]
    run = PlainTrace(losses, [0.5] * 60, steps, phi, 5)
    gain = 0.7 - losses[plain.PHI_EVERY * 6]
    assert candidates._true_margin(run, 0.7, 0.5) == pytest.approx(gain / 0.5, rel=0.2)
    flat = PlainTrace([0.8] * 60, [0.5] * 60, steps, phi, None)
    assert math.isnan(candidates._true_margin(flat, 0.7, 0.5))


def test_candidates_from_a_run_by_hand():
    run = PlainTrace([0.7] * 20 + [0.5] * 20 + [0.3] * 20, [1.0] * 60, [0, 30], [[0.5] * len(PHI_RADII)] * 2, 20)
    found = candidates.from_plain(run, 0.7)
    assert found["margin_q50"] == pytest.approx(0.2)
    assert found["margin_end"] == found["margin_max"] == pytest.approx(0.4)
    assert found["margin_early"] == pytest.approx(0.08)  # the first window that has gained a tenth of 0.7
    assert found["phi_q50"] == PHI_RADII[-1]
    assert found["grad_norm"] == 1
    assert candidates.from_sam(Trace(run.losses, run.norms), 0.7)["margin_sam_q50"] == pytest.approx(0.2)


def test_a_share_of_the_plain_runs_gain():
    assert trials._gain_share([0.6] * 100, [0.5] * 100, 0.7, 100) == pytest.approx(0.5)
    assert trials._gain_share([math.nan] * 100, [0.5] * 100, 0.7, 100) == 0
    assert trials._gain_share([0.6] * 100, [0.8] * 100, 0.7, 100) == 0


def test_rules_of_others():
    known = rules.Known(plateau=0.7, failing=0.5, left_at=10, steps=100)
    named = {control.name: control for control in rules.controls(known)}
    assert named["warm start 0.5"].rule(19, 1.0) == 0
    assert named["warm start 0.5"].rule(20, 1.0) == 0.25
    assert named["linear rise 0.5"].rule(50, 1.0) == 0.125
    assert named["last quarter 0.5"].rule(74, 1.0) == 0
    assert named["le-sam 4"].rule(0, 0.7) == pytest.approx(0.1)
    assert named["le-sam 4"].rule(0, 1e-9) == 2.0
    adaptive = named["ae-sam 0.5"].rule
    assert adaptive(0, 1.0) == 0.25
    assert adaptive(1, 0.1) == 0
    assert adaptive(2, 5.0) == 0.25


def test_the_summary_counts_and_averages():
    rows = [
        {
            "setting": name,
            "seed": 0,
            "held_out": False,
            "controller": rule,
            "trained": trained,
            "score": score,
            "passes": 2,
        }
        for name in "abc"
        for rule, trained, score in (("fixed 0.1", True, 0.9), ("auto", name != "c", 0.8))
    ]  # fmt: skip
    table = controllers.summarise(pd.DataFrame(controllers.with_best_fixed(rows)))
    row = table[(table["settings"] == "all") & (table["controller"] == "auto")].iloc[0]
    assert row["trained"] == pytest.approx(2 / 3)
    assert row["trained_low"] == pytest.approx(binomtest(2, 3).proportion_ci(method="exact").low)
    assert row["gap"] == pytest.approx(-0.1)
    assert row["gap_low"] == pytest.approx(-0.1)
    assert np.isnan(controllers._bootstrap(np.array([1.0, 2.0]))[0])
