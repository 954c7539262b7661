import math

import numpy as np
import pandas as pd
import pytest

from analyses.collapse.scoring import CONSTANT, combined_score, score, score_table


def _settings(count=14, noise=0.0):
    rng = np.random.default_rng(0)
    radius = np.exp(rng.normal(size=count))
    return radius, radius * np.exp(noise * rng.normal(size=count))


def test_a_candidate_that_is_off_by_one_factor_is_perfect_once_calibrated():
    predicted, empirical = _settings()
    found = score(predicted, 7 * empirical)
    assert found["spearman"] == pytest.approx(1)
    assert found["raw_factor"] == pytest.approx(7)
    assert found["calibration"] == pytest.approx(7)
    assert found["calibrated_factor"] == pytest.approx(1)
    assert found["slope"] == pytest.approx(1)


def test_the_constant_is_fitted_without_the_setting_it_is_used_on():
    predicted = np.ones(5)
    empirical = np.exp(np.array([0.0, 0.0, 0.0, 0.0, 10.0]))
    # each of the four is off by the mean of the others, 10/4; the fifth by 10
    assert score(predicted, empirical)["calibrated_factor"] == pytest.approx(math.exp(10 / 4))


def test_a_power_law_is_found_by_the_fit_alone():
    predicted, empirical = _settings()
    found = score(predicted, 3 * empirical**-2)
    assert found["spearman"] == pytest.approx(-1)
    assert found["slope"] == pytest.approx(-2)
    assert found["fitted_factor"] == pytest.approx(1)
    assert found["calibrated_factor"] > 2


def test_the_interval_of_the_rank_correlation_holds_it():
    predicted, empirical = _settings(noise=1.0)
    found = score(predicted, empirical)
    assert found["spearman_low"] < found["spearman"] < found["spearman_high"] <= 1


def test_what_has_no_number_does_not_count():
    predicted, empirical = _settings(6)
    predicted[0], empirical[1] = np.inf, np.nan
    found = score(predicted, empirical)
    assert (found["num_settings"], found["num_missing"]) == (4, 2)
    assert math.isnan(score(predicted[:4], empirical[:4])["spearman"])


def test_two_quantities_together():
    rng = np.random.default_rng(1)
    first, second = np.exp(rng.normal(size=(2, 12)))
    empirical = 2 * first * second**-0.5
    assert combined_score([first, second], empirical)["fitted_factor"] == pytest.approx(1)
    assert combined_score([first], empirical)["fitted_factor"] > 1.1
    assert math.isnan(combined_score([first[:3], second[:3]], empirical[:3])["spearman"])


def test_the_best_comes_first():
    predicted, empirical = _settings(noise=0.5)
    frame = pd.DataFrame({"good": predicted, "bad": 1 / predicted, "empirical_radius": empirical})
    table = score_table(frame, ["bad", "good"])
    assert table["candidate"].tolist() == ["good", "bad", CONSTANT]


def test_measuring_nothing_is_scored_like_the_rest():
    empirical = np.array([1.0, 2.0, 4.0, 8.0])
    table = score_table(pd.DataFrame({"right": empirical, "empirical_radius": empirical}), ["right"])
    constant = table.set_index("candidate").loc[CONSTANT]
    assert math.isnan(constant["spearman"])
    assert constant["calibration"] == pytest.approx(8**0.5)
    # left out, the constant is the others' geometric mean: off by 4, 4^(1/3), 4^(1/3) and 4
    assert constant["calibrated_factor"] == pytest.approx(4 ** (2 / 3))
