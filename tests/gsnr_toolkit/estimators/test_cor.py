import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsnr_toolkit.estimators.cor import DriftGrams, debiased, decompose, first_crossing, first_misalignment, group_cor
from gsnr_toolkit.estimators.curvature import largest_curvature
from tests.support.reference import debiased_sqnorm

RADII = np.geomspace(0.01, 10, 13)


def _grams(radii, gradients, drift_of):
    """Grams of one group (and the whole model, the same): gradients (K, P), drift_of(u (K, P), rho) -> (K, P)."""
    units = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    drifts = [drift_of(units, rho) for rho in radii]
    twice = lambda gram: np.stack([gram, gram])  # noqa: E731
    return DriftGrams(
        radii,
        twice(gradients @ gradients.T),
        np.stack([twice(d @ d.T) for d in drifts]),
        np.stack([twice(gradients @ (gradients + d).T) for d in drifts]),
    )


def _quadratic(hessian, point, radii=RADII, copies=4):
    """Noise-free quadratic 1/2 x'Hx: every batch has the gradient H x, so debiasing changes nothing."""
    gradient = hessian @ point
    grams = _grams(radii, np.tile(gradient, (copies, 1)), lambda u, rho: rho * u @ hessian.T)
    return grams, np.full(2, gradient @ gradient)


def test_closed_form_on_a_quadratic():
    """|Delta| = rho |H u|, so COR = |mu| / |H u| with u = mu / |mu|; alignment is lost at -|mu| / (u'Hu)."""
    hessian, point = np.diag([1.0, -3.0, 0.5]), np.array([0.2, 1.0, -2.0])
    grams, signal = _quadratic(hessian, point)
    found = group_cor(grams, signal, draws=10)
    mu = hessian @ point
    u = mu / np.linalg.norm(mu)
    np.testing.assert_allclose(found.cor[-1], np.linalg.norm(mu) / np.linalg.norm(hessian @ u), rtol=1e-9)
    np.testing.assert_allclose(found.alignment_radius[-1], np.linalg.norm(mu) / -(u @ hessian @ u), rtol=1e-9)
    np.testing.assert_allclose(found.drift[:, -1], RADII * np.linalg.norm(hessian @ u), rtol=1e-9)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), dims=st.integers(2, 6))
def test_radii_are_nested(seed, dims):
    """lipschitz <= cor <= alignment on every quadratic."""
    rng = np.random.default_rng(seed)
    square = rng.normal(size=(dims, dims))
    hessian, point = square + square.T, rng.normal(size=dims)
    grams, signal = _quadratic(hessian, point, radii=np.geomspace(1e-4, 1e4, 40))
    found = group_cor(grams, signal, draws=2)
    lipschitz = np.sqrt(signal[0]) / largest_curvature(lambda x: hessian @ x, dims, tolerance=1e-10, max_products=500)
    assert lipschitz <= found.cor[-1] * (1 + 1e-6)
    assert found.cor[-1] <= found.alignment_radius[-1]


def test_debiased_equals_the_literal_average_over_pairs():
    vectors = np.random.default_rng(0).normal(size=(6, 9)) + 0.3
    np.testing.assert_allclose(debiased(vectors @ vectors.T, np.ones((1, 6)))[0], debiased_sqnorm(vectors))


def test_bootstrap_weights_leave_out_copies_of_one_batch():
    """A draw that shows a batch twice averages over pairs of different batches only."""
    vectors = np.random.default_rng(1).normal(size=(4, 5))
    weights = np.array([[2.0, 1.0, 1.0, 0.0]])
    drawn = [(k, j) for k in (0, 0, 1, 2) for j in (0, 0, 1, 2) if k != j]
    expected = np.mean([vectors[j] @ vectors[k] for j, k in drawn])
    np.testing.assert_allclose(debiased(vectors @ vectors.T, weights)[0], expected)


def test_debiasing_is_unbiased_and_the_plain_norm_is_not():
    rng, mu = np.random.default_rng(2), np.full(20, 0.1)
    batches = mu + rng.normal(size=(3000, 8, 20))
    found = debiased(np.einsum("skp,sjp->skj", batches, batches), np.ones((1, 8)))[:, 0]
    plain = (batches.mean(1) ** 2).sum(1)
    assert abs(found.mean() - mu @ mu) < 4 * found.std() / np.sqrt(3000)
    assert plain.mean() > 5 * (mu @ mu)


def test_crossing_between_below_and_above_the_radii_tried():
    radii = np.array([0.1, 1.0, 10.0])
    signal = np.array([0.25, 4e-4, 1e6, -1.0])
    drift = (radii**2)[:, None] * np.ones(4)
    np.testing.assert_allclose(first_crossing(radii, drift, signal), [0.5, 0.02, np.inf, 0.0])


def test_the_first_of_several_crossings_counts():
    radii = np.array([1.0, 2.0, 3.0, 4.0])
    drift = np.array([0.5, 2.0, 0.5, 2.0])[:, None] ** 2
    crossing = first_crossing(radii, drift, np.array([1.0]))[0]
    assert 1.0 < crossing < 2.0


def test_negative_debiased_drift_counts_as_none():
    radii = np.array([0.1, 1.0])
    crossing = first_crossing(radii, np.array([[-1e-3], [4.0]]), np.array([1.0]))[0]
    assert 0.1 < crossing <= 1.0


def test_no_measurable_drift_before_the_crossing_falls_back_on_proportion():
    crossing = first_crossing(np.array([0.01, 0.1]), np.array([[-1e-9], [1.0]]), np.array([0.01]))[0]
    assert crossing == pytest.approx(0.01)


def test_a_drift_that_is_not_finite_is_never_certified():
    radii = np.array([0.01, 0.1, 0.3, 1.0])
    drift = np.array([0.0027, 0.0315, 0.1591, np.nan])[:, None] ** 2
    assert first_crossing(radii, drift, np.array([0.17**2]))[0] == pytest.approx(0.3)
    assert first_misalignment(radii, np.array([[1.0], [1.0], [1.0], [np.nan]]))[0] == pytest.approx(0.3)


def test_misalignment():
    radii = np.array([0.1, 1.0, 10.0])
    assert first_misalignment(radii, np.array([[1.0], [0.5], [-0.5]]))[0] == pytest.approx(5.5)
    assert first_misalignment(radii, np.array([[1.0], [0.5], [0.1]]))[0] == np.inf
    assert first_misalignment(radii, np.array([[-1.0], [0.5], [0.1]]))[0] == pytest.approx(0.1)


def test_coverage_on_a_noisy_quadratic():
    """Batch gradients mu + noise, drift rho H u_k: the bootstrap interval covers the population COR."""
    rng, dims, batches = np.random.default_rng(3), 30, 12
    hessian = np.diag(np.linspace(0.5, 2, dims))
    mu = rng.normal(size=dims)
    mu *= 1.5 / np.linalg.norm(mu)

    def unit(g):
        return g / np.linalg.norm(g, axis=-1, keepdims=True)

    many = mu + 0.2 * rng.normal(size=(200_000, dims))
    truth = np.linalg.norm(mu) / np.linalg.norm(unit(many).mean(0) @ hessian)
    hits = 0
    for seed in range(300):
        gradients = mu + 0.2 * rng.normal(size=(batches, dims))
        grams = _grams(RADII, gradients, lambda u, rho: rho * u @ hessian)
        signal = np.full(2, debiased_sqnorm(gradients))
        found = group_cor(grams, signal, draws=400, seed=seed)
        hits += found.low[-1] <= truth <= found.high[-1]
    assert 0.90 <= hits / 300 <= 0.995


def test_no_signal_gives_nan_and_an_upper_limit():
    rng = np.random.default_rng(4)
    gradients = rng.normal(size=(8, 50))
    grams = _grams(RADII, gradients, lambda u, rho: rho * u)
    found = group_cor(grams, np.array([-0.5, -0.5]), draws=200)
    assert np.isnan(found.cor[-1])
    assert found.low[-1] == 0.0
    assert np.isfinite(found.high[-1])


def test_merging_radii_sorts_and_drops_duplicates():
    hessian, point = np.diag([1.0, 2.0]), np.array([1.0, 1.0])
    first, signal = _quadratic(hessian, point, radii=np.array([0.1, 1.0]))
    second, _ = _quadratic(hessian, point, radii=np.array([0.5, 1.0]))
    merged = first.merged(second)
    np.testing.assert_array_equal(merged.radii, [0.1, 0.5, 1.0])
    full, _ = _quadratic(hessian, point, radii=np.array([0.1, 0.5, 1.0]))
    np.testing.assert_allclose(merged.drift, full.drift)
    np.testing.assert_allclose(group_cor(merged, signal, draws=5).cor, group_cor(full, signal, draws=5).cor)


@settings(deadline=None, max_examples=50)
@given(cor=st.floats(1e-4, 1e3), signal=st.floats(1e-8, 1e4), trace=st.floats(1e-8, 1e6))
def test_decomposition_identity(cor, signal, trace):
    parts = decompose(np.array(cor), np.array(signal), np.array(trace))
    r = signal / trace
    np.testing.assert_allclose(parts.signal_fraction, r / (1 + r), rtol=1e-9)
    product = parts.signal_fraction / (parts.misspecification * parts.grad_norm)
    np.testing.assert_allclose(product, cor, rtol=1e-6)


def test_decomposition_without_an_answer_is_nan():
    parts = decompose(np.array([np.inf, np.nan, 1.0]), np.array([1.0, 1.0, -1.0]), np.ones(3))
    assert np.isnan(parts.misspecification).all()
    assert np.isfinite(parts.signal_fraction[:2]).all()
    assert np.isnan(parts.signal_fraction[2])


@pytest.mark.parametrize("size", [1, 2, 40])
def test_largest_curvature_against_a_dense_eigenvalue(size):
    rng = np.random.default_rng(size)
    square = rng.normal(size=(size, size))
    hessian = square + square.T
    found = largest_curvature(lambda x: hessian @ x, size, tolerance=1e-8, max_products=500)
    np.testing.assert_allclose(found, np.abs(np.linalg.eigvalsh(hessian)).max(), rtol=1e-5)


def test_curvature_that_does_not_converge_is_nan():
    rng = np.random.default_rng(0)
    hessian = np.diag(np.sort(rng.uniform(0.999, 1.0, size=400)))
    assert np.isnan(largest_curvature(lambda x: hessian @ x, 400, tolerance=1e-14, max_products=1))
