import numpy as np
from scipy import stats

from gsnr_toolkit.estimators.uncertainty import (
    bootstrap_weights,
    expanded_percentiles,
    jackknife_error,
    student_quantile,
)


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=30)
    deleted = np.array([np.delete(values, i).mean() for i in range(30)])
    np.testing.assert_allclose(jackknife_error(deleted), values.std(ddof=1) / np.sqrt(30))
    assert np.isnan(jackknife_error(np.ones((1, 2)))).all()


def test_student_quantile():
    np.testing.assert_allclose(student_quantile(0.9, 7), stats.t.ppf(0.95, 7))


def test_weights_are_draws_with_at_least_two_distinct_batches():
    weights = bootstrap_weights(4, 3000, seed=0)
    assert (weights.sum(1) == 4).all()
    assert ((weights > 0).sum(1) >= 2).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.05)
    np.testing.assert_array_equal(weights, bootstrap_weights(4, 3000, seed=0))


def test_expanded_percentiles_cover_the_mean_of_few_units():
    """Eight units: the expanded interval covers near its nominal level, the plain percentile one does not."""
    rng = np.random.default_rng(1)
    hits, plain_hits = 0, 0
    for seed in range(500):
        values = rng.normal(size=8)
        means = bootstrap_weights(8, 600, seed) @ values / 8
        low, high = expanded_percentiles(means, 8, 0.95)
        hits += low <= 0 <= high
        plain = np.quantile(means, [0.025, 0.975])
        plain_hits += plain[0] <= 0 <= plain[1]
    assert 0.92 <= hits / 500 <= 0.99
    assert plain_hits < hits - 10


def test_infinite_replicates_stay_infinite():
    low, high = expanded_percentiles(np.array([1.0] * 50 + [np.inf] * 50), 10, 0.95)
    assert low == 1.0
    assert high == np.inf
