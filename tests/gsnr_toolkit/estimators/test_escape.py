import numpy as np
import pytest

from gsnr_toolkit.estimators.escape import escape_radius


def _constant(values, count=8):
    return np.repeat(np.array(values, dtype=float)[:, None], count, axis=1)


def test_largest_over_steps_of_gain_over_cost():
    found = escape_radius([0, 5, 20], _constant([0.69, 0.5, 0.2]), _constant([0.1, 1.1, 10.1]), plateau_loss=0.7)
    assert found.status == "ok"
    assert found.step == 5
    assert found.value == pytest.approx(0.2 / 1.0)
    assert found.low == pytest.approx(found.value)
    assert "0.2" in found.message


def test_the_plateau_is_where_its_gradient_is_smallest():
    """A random head starts with a large gradient, and comes to the constant predictor only after some steps."""
    losses, norms = [0.70, 0.692, 0.688, 0.4, 0.2], [1.2, 0.4, 0.3, 1.3, 2.8]
    found = escape_radius([0, 5, 10, 20, 40], _constant(losses), _constant(norms))
    assert found.value == pytest.approx((np.log(2) - 0.4) / (1.3 - 0.3))
    assert found.step == 20
    assert found.low == pytest.approx(found.value)


def test_the_bound_takes_the_plateaus_gradient_for_zero():
    losses, norms = [0.69, 0.5, 0.2], [0.1, 1.1, 10.1]
    found = escape_radius([0, 5, 20], _constant(losses), _constant(norms), plateau_loss=0.7)
    assert found.bound == pytest.approx(0.2 / 1.1)
    assert found.bound <= found.value
    # without a step on the plateau there is a bound all the same, and none where nothing was learned
    started = escape_radius([0, 5], _constant([0.127, 0.1]), _constant([1.0, 1.0001]))
    assert np.isnan(started.value)
    assert started.bound == pytest.approx((np.log(2) - 0.1) / 1.0001)
    # a loss a hair below the plateau's is still on it
    assert np.isnan(escape_radius([0, 5], _constant([0.6925, 0.75]), _constant([1.0, 2.0])).bound)


def test_unbounded_when_leaving_costs_nothing():
    found = escape_radius([0, 5], _constant([0.69, 0.3]), _constant([1.0, 0.5]))
    assert found.status == "unbounded"
    assert found.value == np.inf


def test_undefined_when_the_plateau_was_never_left():
    found = escape_radius([0, 5], _constant([0.69, 0.75]), _constant([1.0, 2.0]))
    assert found.status == "undefined"
    assert np.isnan(found.value)
    assert "never fell below" in found.message


def test_one_step_is_no_trajectory():
    found = escape_radius([0], _constant([0.69]), _constant([1.0]))
    assert found.status == "undefined"
    assert "more steps" in found.message


def test_a_run_that_starts_below_the_plateau_has_no_escape_radius():
    found = escape_radius([0, 5], _constant([0.127, 0.1]), _constant([1.0, 1.0001]))
    assert found.status == "undefined"
    assert "start from an untrained head" in found.message


def test_interval_widens_with_the_spread_of_batches():
    rng = np.random.default_rng(0)
    losses, norms = _constant([0.69, 0.4], 12), _constant([1.0, 3.0], 12)
    narrow = escape_radius([0, 9], losses + 0.01 * rng.normal(size=(2, 12)), norms)
    wide = escape_radius([0, 9], losses + 0.1 * rng.normal(size=(2, 12)), norms)
    assert narrow.low < narrow.value < narrow.high
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
