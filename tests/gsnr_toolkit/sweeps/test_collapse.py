import math

import numpy as np
import pandas as pd
import pytest

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.sweeps.collapse import collapse_radii

INF, LN2 = math.inf, math.log(2)
AUC = {"+": 0.9, "-": 0.5, "?": 0.55}
RADII = (0.0, 0.01, 0.02, 0.05, 0.1)


def table(*curves, radii=RADII, **columns):
    """A sweep of one setting: each curve is a seed, each sign a radius; a blank is a run that is not there."""
    rows = []
    for seed, curve in enumerate(curves):
        for rho, sign in zip(radii, curve, strict=False):
            if sign != " ":
                auc, loss = AUC[sign], LN2 if sign == "-" else 0.3
                limits = {"test_auc": auc, "test_auc_low": auc - 0.02, "test_auc_high": auc + 0.02}
                rows.append({"rho": rho, "seed": seed, "status": "ok", "train_loss": loss, **limits})
    return pd.DataFrame(rows).assign(data="demo-nt", **columns)


def answer(*curves, **options):
    (row,) = collapse_radii(table(*curves, **options)).to_dict("records")
    return row


@pytest.mark.parametrize(
    ("curves", "radius", "low", "high", "status"),
    [
        (["+++--"], 0.05, 0.02, 0.05, "ok"),
        (["+----"], 0.01, 0.0, 0.01, "ok"),
        (["++?--"], 0.05, 0.01, 0.05, "ok"),  # undecided widens the bracket downwards
        (["+++?-"], 0.1, 0.02, 0.1, "ok"),
        (["+++--", "+++--", "+++--"], 0.05, 0.02, 0.05, "ok"),
        (
            ["+++--", "++---", "++---"],
            0.05,
            0.01,
            0.05,
            "ok",
        ),  # at 0.02, 2 of 3 collapse: together undecided
        (["++++-", "++---", "+----"], 0.1, 0.0, 0.1, "ok"),
        (["+++++"], INF, 0.1, INF, "never_collapsed"),
        (["++++?"], INF, 0.05, INF, "never_collapsed"),
        (["+++++", "+++--"], INF, 0.02, INF, "never_collapsed"),  # one seed does not make a collapse
        (["++-+-"], 0.02, 0.01, 0.1, "not_monotone"),
        (["++-++"], 0.02, 0.01, INF, "not_monotone"),
        (["++-?-"], 0.02, 0.01, 0.02, "ok"),  # undecided is not trained again
        (["?----"], 0.01, 0.0, 0.01, "ok"),
    ],
)
def test_radius_bracket_and_status(curves, radius, low, high, status):
    row = answer(*curves)
    assert [row[f"empirical_{name}"] for name in ("radius", "low", "high")] == [radius, low, high]
    assert row["status"] == status
    assert (row["num_seeds"], row["num_radii"], row["largest_radius"]) == (len(curves), 5, 0.1)


@pytest.mark.parametrize(
    ("curves", "radii", "status", "words"),
    [
        (["-----"], RADII, "never_trained", "at chance without SAM (AUC 0.500 [0.480, 0.520], loss 0.693)"),
        (["-++--"], RADII, "never_trained", "at chance without SAM"),
        (["---"], (0.01, 0.05, 0.1), "no_baseline", "at chance at rho = 0.01, the smallest; run rho = 0"),
    ],
)
def test_no_number_where_there_is_none(curves, radii, status, words):
    row = answer(*curves, radii=radii)
    assert np.isnan([row[f"empirical_{name}"] for name in ("radius", "low", "high")]).all()
    assert row["status"] == status
    assert words in row["message"]


def test_a_good_ranking_on_the_plateau_is_not_called_chance():
    row = collapse_radii(table("++-").assign(train_loss=LN2)).to_dict("records")[0]
    assert row["status"] == "never_trained"
    assert row["message"].startswith("undefined: without SAM the training loss stays at ln 2 (AUC 0.9")


def test_without_a_baseline_that_trains_the_radius_is_still_found():
    assert answer("++-", radii=(0.01, 0.05, 0.1))["empirical_radius"] == 0.1


@pytest.mark.parametrize(
    ("curves", "words"),
    [
        (["+++--"], "one seed, so the spread over seeds is not known"),
        (
            ["+++--"] * 2,
            "at rho = 0.05 (AUC 0.500 [0.480, 0.520], loss 0.693); the threshold is between 0.02",
        ),
        (["+++--"] * 2, "(2 seeds)"),
        (["++++?"], "there it is undecided (AUC 0.550 [0.530, 0.570], loss 0.300)"),
        (["+++++", "+++--"], "single seeds collapse from rho = 0.05"),
        (["++-++"], "not monotone: it trains again at rho = 0.05, 0.1"),
        (["?----"], "already at rho = 0 not clearly above chance"),
        (["+++--", "+++--", "-----"], "1 of the seeds did not train without SAM either"),
    ],
)
def test_the_sentence_tells_what_a_reader_must_know(curves, words):
    assert words in answer(*curves)["message"]


def test_a_seed_that_never_trains_or_is_not_done_does_not_widen_the_bracket():
    row = answer("+++--", "+++--", "-----")  # its own bracket would be (0, 0); together nothing trains for certain
    assert [row[f"empirical_{name}"] for name in ("radius", "low", "high")] == [0.05, 0.0, 0.05]
    row = answer("+++--", "++")
    assert (row["empirical_radius"], row["empirical_low"], row["empirical_high"]) == (0.05, 0.02, 0.05)
    assert "some radii have fewer seeds than others" in row["message"]


def test_settings_are_found_apart():
    both = pd.concat([table("+++--"), table("++---", lr=1e-3), table("+++++", lr=3e-4).assign(data="demo-df")])
    found = collapse_radii(both)
    assert found["empirical_radius"].tolist() == [0.05, 0.02, INF]
    assert found["data"].tolist() == ["demo-nt", "demo-nt", "demo-df"]
    assert collapse_radii(both[both["data"] == "demo-df"], by=["data"])["status"].tolist() == ["never_collapsed"]
    with pytest.raises(ProbeError, match="add lr to by"):
        collapse_radii(both, by=["data"])
    with pytest.raises(ProbeError, match="expected at least one column"):
        collapse_radii(both, by=[])


def test_failed_and_diverged_runs():
    failed = table("+++--").assign(status="failed")
    (row,) = collapse_radii(failed).to_dict("records")
    assert (row["status"], row["num_runs"]) == ("no_runs", 0)
    assert "none of 5 runs at a fixed radius has finished" in row["message"]
    diverged = table("+++--").assign(status=["ok"] * 3 + ["diverged"] * 2)
    diverged.loc[3:, ["test_auc", "test_auc_low", "test_auc_high", "train_loss"]] = math.nan
    (row,) = collapse_radii(diverged).to_dict("records")
    assert row["empirical_radius"] == 0.05
    assert "2 runs diverged and count as chance" in row["message"]


def test_a_radius_between_noisy_seeds_is_found_near_the_threshold():
    """Detectors whose AUC falls at a threshold of their own, on a fine grid: the bracket holds every threshold."""
    rng = np.random.default_rng(1)
    radii = np.round(np.geomspace(0.001, 1, 25), 5)
    thresholds = 0.05 * np.exp(rng.normal(0, 0.2, 5))
    rows = [
        {
            "data": "x", "rho": rho, "seed": seed, "status": "ok", "train_loss": 0.69 if rho > cut else 0.2,
            "test_auc": auc, "test_auc_low": auc - 0.03, "test_auc_high": auc + 0.03,
        }
        for seed, cut in enumerate(thresholds)
        for rho in [0.0, *radii]
        for auc in [(0.5 if rho > cut else 0.85) + rng.normal(0, 0.005)]
    ]  # fmt: skip
    (row,) = collapse_radii(pd.DataFrame(rows)).to_dict("records")
    assert row["status"] == "ok"
    assert row["empirical_low"] <= thresholds.min()
    assert row["empirical_high"] >= thresholds.max()
    step = (1 / 0.001) ** (1 / 24)
    assert row["empirical_low"] > thresholds.min() / step**1.01
    assert row["empirical_high"] < thresholds.max() * step**1.01


def _outcomes(curve, stays, outcomes, steps=300):
    return table(curve).assign(steps_on_plateau=stays, outcome=outcomes, steps_done=steps)


def test_a_run_that_may_only_be_slow_is_undecided():
    """The plain run takes 90 steps, so 300 steps are too short to call a run on the plateau dead."""
    fates = ["left", "left", "left", "delayed", "fell_back"]
    slow = _outcomes("+++--", [90, 100, 150, 300, 300], fates)
    (row,) = collapse_radii(slow).to_dict("records")
    assert row["empirical_radius"] == INF
    assert row["status"] == "never_collapsed"
    assert "2 runs on the plateau are too short to count: they may be slow, so train longer" in row["message"]
    for found in (collapse_radii(slow.assign(steps_done=450)), collapse_radii(slow, horizon=3)):
        (row,) = found.to_dict("records")
        assert row["empirical_radius"] == 0.05
        assert row["outcome"] == "delayed"
        assert "too short" not in row["message"]


def test_a_run_that_sinks_or_diverges_needs_no_horizon():
    for fate in ("sank", "diverged"):
        runs = _outcomes("+++--", [90, 100, 150, 300, 300], ["left"] * 3 + [fate] * 2)
        (row,) = collapse_radii(runs).to_dict("records")
        assert (row["empirical_radius"], row["outcome"]) == (0.05, fate)


def test_without_a_plain_run_that_left_the_end_counts():
    runs = _outcomes("+++--", [300] * 5, ["delayed"] * 5)
    assert collapse_radii(runs)["empirical_radius"].tolist() == [0.05]
    with pytest.raises(ProbeError, match="expected horizon to be a positive number"):
        collapse_radii(runs, horizon=0)
