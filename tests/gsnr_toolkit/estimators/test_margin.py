"""The margin radius against its definition."""

import numpy as np
import pytest

from gsnr_toolkit.estimators.margin import margin_radius


def _constant(values, count=8):
    return np.repeat(np.array(values, dtype=float)[:, None], count, axis=1)


def test_it_is_gain_over_norm_at_half_of_the_largest_gain():
    losses, norms = [0.7, 0.6, 0.48, 0.3], [0.1, 2.0, 1.1, 4.0]
    found = margin_radius([0, 5, 10, 20], _constant(losses), _constant(norms), plateau_loss=0.7)
    assert (found.status, found.step) == ("ok", 10)  # gains .1, .22, .4: .22 is nearest to .2
    assert found.value == pytest.approx(0.22 / 1.1)
    assert found.low == pytest.approx(found.value)
    assert found.gained == pytest.approx(0.4 / 0.7)
    assert "rho = 0.2" in found.message


def test_beyond_it_sam_prefers_the_plateau():
    losses, norms = np.array([[0.4, 0.5, 0.45]]), np.array([[1.0, 2.0, 3.0]])
    margin = margin_radius([7], losses, norms, plateau_loss=0.7).value
    for rho, better in ((0.99 * margin, True), (1.01 * margin, False)):
        assert ((losses + rho * norms).mean() < 0.7) == better


def test_a_loss_within_its_error_of_the_plateau_has_no_margin():
    noise = 0.05 * np.array([1, -1, 1, -1, 1, -1, 1, -1.0])
    losses = np.stack([0.7 + noise, 0.69 + noise])
    found = margin_radius([0, 9], losses, np.ones((2, 8)), plateau_loss=0.7)
    assert found.status == "on_plateau"
    assert np.isnan(found.value)
    assert "after 9 steps" in found.message


def test_one_mini_batch_has_no_interval():
    found = margin_radius([0], np.array([[0.3]]), np.array([[1.0]]), plateau_loss=0.7)
    assert found.status == "undefined"
    assert "two mini-batches" in found.message


def test_its_interval_covers_the_truth_as_often_as_it_says():
    rng, hits, draws = np.random.default_rng(0), 0, 200
    for seed in range(draws):
        losses, norms = 0.4 + 0.1 * rng.normal(size=(1, 12)), 2.0 + 0.5 * rng.normal(size=(1, 12))
        found = margin_radius([5], losses, norms, plateau_loss=0.7, draws=400, seed=seed)
        hits += found.low <= 0.3 / 2.0 <= found.high
    assert 0.90 <= hits / draws <= 0.99
