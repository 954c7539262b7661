from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.collapse.early import CANDIDATES, CUTOFFS, early_scores, first_steps
from analyses.collapse.foretell_collapse import TARGETS

STORED = Path(__file__).parents[3] / "figures" / "data"


def _run(setting, seed, cors, losses=(0.7, 0.5, 0.3)):
    return pd.DataFrame(
        {
            "setting": setting, "seed": seed, "step": [0, 40, 80], "cor": cors, "gsnr": [0.1, 0.2, 0.3],
            "grad_norm": [1.0, 2.0, 3.0], "loss": losses, "batch_grad_norm": [0.5, 1.0, 2.0],
        }
    )  # fmt: skip


def test_nothing_is_seen_of_what_comes_later():
    steps = pd.concat([_run("x", 0, [0.09, 0.04, 0.01]), _run("x", 1, [0.01, 0.04, 0.09])])
    before, early, whole = (first_steps(steps, last).loc["x"] for last in (0, 40, 80))
    assert before["cor"] == pytest.approx((0.09 * 0.01) ** 0.5)
    assert early["cor"] == pytest.approx((0.04 * 0.01) ** 0.5)
    assert whole["cor"] == pytest.approx(0.01)
    assert early["gsnr"] == pytest.approx((0.2 * 0.1) ** 0.5)  # at the step of the smallest COR of each seed
    assert whole["cor_step"] == 40
    assert early["escape_lower"] == pytest.approx((np.log(2) - 0.5) / 1.0)
    assert np.isnan(before["escape_radius"])
    assert np.isnan(before["escape_lower"])  # nothing below the plateau yet


def test_a_seed_without_a_signal_so_early_has_no_candidate():
    steps = pd.concat([_run("x", 0, [np.nan, np.nan, 0.01]), _run("x", 1, [0.01, 0.04, 0.09])])
    assert np.isnan(first_steps(steps, 40).loc["x", "cor"])
    assert first_steps(steps, 80).loc["x", "cor"] == pytest.approx(0.01)


@pytest.mark.slow
def test_stored_scores_are_those_of_the_stored_steps():
    by_setting = pd.read_csv(STORED / "foretell_collapse.csv")
    steps = pd.read_csv(STORED / "foretell_collapse_steps.csv")
    stored = pd.read_csv(STORED / "foretell_collapse_early.csv")
    found = early_scores(by_setting, steps, TARGETS)
    pd.testing.assert_frame_equal(found, stored)
    # over the whole run they are the candidates of the study
    whole = pd.read_csv(STORED / "foretell_collapse_scores.csv").query("scope == 'all'")
    keys = ["candidate", "target"]
    both = stored[stored["last_step"] == CUTOFFS[-1]].merge(whole, on=keys, suffixes=("", "_whole"))
    assert set(CANDIDATES) <= set(both["candidate"])
    np.testing.assert_allclose(both["spearman"], both["spearman_whole"])
    np.testing.assert_allclose(both["calibrated_factor"], both["calibrated_factor_whole"])
