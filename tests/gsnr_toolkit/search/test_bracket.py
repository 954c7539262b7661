"""The bisection, and what follows from its trials."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsnr_toolkit.search.bracket import bracket, bracket_of
from gsnr_toolkit.search.margin_of_run import margin_of_trace
from gsnr_toolkit.search.result import sentence, suggested
from gsnr_toolkit.search.trial import Trace, Trial

LIMITS = {"precision": 1.5, "smallest": 1e-4, "largest": 1e2}


@given(st.floats(1e-3, 10), st.floats(1e-4, 100))
def test_it_holds_the_threshold_and_is_as_narrow_as_asked(threshold, guess):
    calls = []
    low, high = bracket(lambda rho: calls.append(rho) or rho >= threshold, guess, **LIMITS)
    assert low < threshold <= high
    assert high / low <= 1.5
    assert len(set(calls)) == len(calls) <= 3 + abs(math.log2(threshold / guess))


def test_the_ends_of_the_search():
    assert bracket(lambda rho: True, 1.0, **LIMITS) == (0.0, 1e-4)
    assert bracket(lambda rho: False, 1.0, **LIMITS) == (100.0, math.inf)


def test_a_radius_that_trains_above_one_that_fails_does_not_count():
    assert bracket_of({0.1: True, 0.2: False}) == (0.0, 0.1)
    assert bracket_of({}) == (0.0, math.inf)


def _trial(rho, steps, outcome="left"):
    return Trial(rho, 0, outcome, 100, steps, 200)


def test_a_tenth_of_the_failing_radius_is_suggested_if_it_is_quick():
    trials = [_trial(0.1, 30), _trial(0.2, 35), _trial(0.4, 60), _trial(0.8, 100, "delayed")]
    assert suggested(0.4, 0.8, 1.0, trials, plain_steps=30) == 0.08
    slow = [_trial(0.02, 30), _trial(0.05, 90), _trial(0.4, 95), _trial(0.8, 100, "delayed")]
    assert suggested(0.4, 0.8, 1.0, slow, plain_steps=30) == 0.02
    assert suggested(0.4, 0.8, 1.0, [_trial(0.05, 90), _trial(0.4, 95)], plain_steps=30) == 0.025
    assert suggested(0.0, 0.8, 1.0, [], plain_steps=30) == 0.0
    assert suggested(0.4, math.inf, 0.8, [_trial(0.4, 35)], plain_steps=30) == 0.08
    assert suggested(0.4, math.inf, math.nan, [_trial(0.4, 35)], plain_steps=30) == 0.04


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("delayed", "0.8 has not left it"),
        ("fell_back", "0.8 falls back"),
        ("sank", "0.8 sinks"),
        ("diverged", "diverges"),
    ],
)  # fmt: skip
def test_the_sentence_names_the_fate(outcome, words):
    text = sentence("found", 0.2, 0.4, 0.8, [_trial(0.4, 60), _trial(0.8, 90, outcome)], 30)
    assert text.startswith("rho <= 0.4 leaves the plateau, within 2.0 times the plain run's 30 steps; ")
    assert words in text
    assert text.endswith("suggested 0.2")


def test_the_margin_of_a_run_that_gains_nothing_or_is_short():
    assert math.isnan(margin_of_trace(Trace([0.7] * 50, [1.0] * 50), 0.69))
    assert math.isnan(margin_of_trace(Trace([0.1] * 5, [1.0] * 5), 0.69))
    assert margin_of_trace(Trace([0.5] * 20, [2.0] * 20), 0.7) == pytest.approx(0.1)
