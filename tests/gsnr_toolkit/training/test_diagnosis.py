import math

import pytest

from gsnr_toolkit.training.diagnosis import MARGIN, WINDOW, PlateauWatch, diagnose

LN2 = math.log(2)


@pytest.mark.parametrize(
    ("losses", "status"),
    [
        ([LN2] * WINDOW, "dead"),
        ([LN2 + 0.3] * WINDOW, "dead"),
        ([LN2 - MARGIN - 1e-6] * WINDOW, "learning"),
        ([0.1] * WINDOW + [LN2] * WINDOW, "dead"),
        ([LN2] * (WINDOW - 1), "too_early"),
        ([LN2, math.nan], "diverged"),
        ([math.inf] + [0.1] * WINDOW, "learning"),
    ],
)
def test_statuses(losses, status):
    found = diagnose(losses)
    assert found.status == status
    assert found.message.startswith(status.replace("_", " "))


def test_constant_answers_are_named():
    assert "logits hardly differ (sd 0.002)" in diagnose([LN2] * WINDOW, 0.002).message
    assert "logits" not in diagnose([LN2] * WINDOW, 0.5).message


def test_a_run_is_given_up_only_after_its_patience_on_end():
    watch = PlateauWatch(3)
    for _ in range(WINDOW + 1):
        watch.add(LN2)
    assert not watch.hopeless
    for _ in range(WINDOW):
        watch.add(0.3)
    assert watch.dead_steps == 0
    for _ in range(WINDOW + 40):
        watch.add(LN2)
    assert watch.hopeless
    assert not PlateauWatch(0).hopeless


def test_the_watch_goes_on_where_it_stood():
    watch, other = PlateauWatch(5), PlateauWatch(5)
    for _ in range(WINDOW + 2):
        watch.add(LN2)
    other.load_state_dict(watch.state_dict())
    for _ in range(2):
        watch.add(LN2)
        other.add(LN2)
    assert watch.hopeless
    assert other.hopeless
