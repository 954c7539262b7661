import math

import numpy as np
import pandas as pd
import pytest

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.sweeps.over_seeds import _interval, average_over_seeds, rows_of, setting_columns, usable_runs

LN2 = math.log(2)


def runs(aucs, *, half=0.03, loss=0.3, rho=0.1, **columns):
    """One run per seed at one radius."""
    aucs = np.asarray(aucs, dtype=float)
    limits = {"test_auc_low": aucs - half, "test_auc_high": aucs + half}
    fixed = {"data": "demo-nt", "rho": rho, "seed": range(len(aucs)), "status": "ok", "train_loss": loss}
    return pd.DataFrame({**fixed, "test_auc": aucs, **limits, **columns})


def test_three_seeds_by_hand():
    (row,) = average_over_seeds(runs([0.80, 0.86, 0.89], half=0.02)).to_dict("records")
    # mean 0.85, sd sqrt((.05^2 + .01^2 + .04^2) / 2) = .0458258; t(2 df) = 4.302653
    margin = math.sqrt((4.302653 * 0.0458258 / math.sqrt(3)) ** 2 + 0.02**2)
    assert row["auc"] == pytest.approx(0.85)
    assert row["auc_low"] == pytest.approx(0.85 - margin, abs=1e-6)
    assert row["auc_high"] == pytest.approx(0.85 + margin, abs=1e-6)
    assert (row["num_seeds"], row["num_diverged"], row["train_loss"]) == (3, 0, pytest.approx(0.3))


def test_one_and_two_seeds():
    (one,) = average_over_seeds(runs([0.8])).to_dict("records")
    assert (one["auc_low"], one["auc_high"]) == (pytest.approx(0.77), pytest.approx(0.83))
    (two,) = average_over_seeds(runs([0.5, 0.9])).to_dict("records")
    assert (two["auc"], two["auc_low"], two["auc_high"]) == (0.7, pytest.approx(0.47), pytest.approx(0.93))


def test_the_interval_covers_where_one_over_seeds_alone_does_not():
    """Seeds share their test images: the images' error is the same in all of them, and does not average out."""
    rng, reps, truth, half = np.random.default_rng(0), 3000, 0.8, 0.04
    covered, naive = 0, 0
    for _ in range(reps):
        value = truth + rng.normal(0, half / 1.96) + rng.normal(0, 0.01, 4)
        _, low, high = _interval(value, value - half, value + half)
        covered += low <= truth <= high
        naive += abs(value.mean() - truth) <= 3.182446 * value.std(ddof=1) / 2
    assert covered / reps > 0.94
    assert naive / reps < 0.75


@pytest.mark.parametrize(
    ("aucs", "loss", "half", "state"),
    [
        ([0.9, 0.9, 0.9], 0.2, 0.02, "trained"),
        ([0.5, 0.5, 0.5], 0.6, 0.03, "collapsed"),  # by AUC
        ([0.52], 0.6, 0.04, "undecided"),  # the limit is 0.56
        ([0.5], LN2 - 0.009, 0.08, "collapsed"),  # few images, but the loss tells
        ([0.5], LN2 - 0.011, 0.08, "undecided"),
        ([0.5], LN2 + 0.2, 0.08, "collapsed"),
        ([0.9], LN2, 0.02, "collapsed"),  # it ranks by logits that hardly differ, but is not trained
        ([0.5, 0.9], 0.5, 0.03, "undecided"),
        ([0.3, 0.3, 0.3], 0.6, 0.03, "collapsed"),
    ],
)
def test_states(aucs, loss, half, state):
    assert average_over_seeds(runs(aucs, loss=loss, half=half))["state"].tolist() == [state]


def test_the_loss_does_not_count_where_wrong_labels_hold_it_up():
    for share, state in ((0.2, "collapsed"), (0.39, "collapsed"), (0.41, "trained"), (0.5, "trained")):
        assert average_over_seeds(runs([0.9], loss=LN2, label_noise=share))["state"].tolist() == [state]
    assert average_over_seeds(runs([0.5], loss=LN2, label_noise=0.45))["state"].tolist() == ["collapsed"]


def test_one_run_off_the_plateau_is_enough():
    table = runs([0.5, 0.5], half=0.08, train_loss=[LN2, 0.3])
    assert average_over_seeds(table)["state"].tolist() == ["undecided"]


def test_runs_that_count_and_runs_that_do_not():
    table = pd.concat([
        runs([0.9], rho=0.0),
        runs([math.nan], rho=0.5, status="diverged", train_loss=math.nan),
        runs([math.nan], rho=0.6, status="failed", train_loss=math.nan),
        runs([0.7], rho="auto"),
    ])  # fmt: skip
    assert usable_runs(table)["rho"].tolist() == [0.0, 0.5]
    found = average_over_seeds(table)
    assert found["state"].tolist() == ["trained", "collapsed"]
    assert found[["auc", "auc_high", "num_diverged"]].values.tolist()[1] == [0.5, 0.5, 1]
    assert table["rho"].tolist()[-1] == "auto", "the table is left as it was"


def test_how_a_run_is_watched_makes_no_setting_unless_nothing_else_differs():
    plain = runs([0.9, 0.8], rho=0.0, record_every=50, stop_dead=0)
    sam = runs([0.7, 0.6], record_every=0, stop_dead=200)
    assert setting_columns(pd.concat([plain, sam])) == ["data"]
    assert average_over_seeds(pd.concat([plain, sam]))["auc"].tolist() == pytest.approx([0.85, 0.65])
    twice = pd.concat([runs([0.9], record_every=50), runs([0.8], record_every=0)])
    assert setting_columns(twice) == ["data", "record_every"]
    assert average_over_seeds(twice)["auc"].tolist() == [0.9, 0.8]


def test_settings_are_kept_apart_and_missing_values_are_equal():
    table = pd.concat([runs([0.9, 0.8], strength=math.nan), runs([0.6, 0.7], strength=2.0)])
    assert setting_columns(table) == ["data", "strength"]
    found = average_over_seeds(table)
    assert found["auc"].tolist() == pytest.approx([0.85, 0.65])
    own = rows_of(found, {"data": "demo-nt", "strength": math.nan})
    assert own["auc"].tolist() == pytest.approx([0.85])
    with pytest.raises(ProbeError, match="one run per setting, radius and seed, got several; add strength to by"):
        average_over_seeds(table, ["data"])
    with pytest.raises(ProbeError, match="expected by to name columns of the table, got model"):
        average_over_seeds(table, ["model"])
    with pytest.raises(ProbeError, match="got one without train_loss"):
        average_over_seeds(table.drop(columns="train_loss"))
