"""The formulas of docs/theory.md, checked with numpy alone: nothing here imports the package.

Stochastic checks are z-tests with a stated budget: a correct formula fails one of them with probability
below 1e-5, and the negative controls show that a wrong formula is far outside.
"""

import numpy as np
import pytest

Z = 4.5  # two-sided p = 7e-6


def z_score(values, expected):
    return (np.mean(values) - expected) / (np.std(values, ddof=1) / np.sqrt(len(values)))


def unit(vectors):
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


# Section 2: gradient signal-to-noise ratio


@pytest.mark.parametrize(("n", "r"), [(8, 0.0), (8, 0.3), (20, 2.0)])
def test_plug_in_bias_and_its_correction(n, r):
    rng = np.random.default_rng(n)
    samples = np.sqrt(r) + rng.normal(size=(200_000, n))
    plug_in = samples.mean(1) ** 2 / samples.var(1, ddof=1)
    corrected = (n - 3) / (n - 1) * plug_in - 1 / n
    assert abs(z_score(plug_in, (n - 1) / (n - 3) * (r + 1 / n))) < Z
    assert abs(z_score(corrected, r)) < Z
    assert abs(z_score(plug_in, r)) > 10 * Z  # negative control: the plug-in ratio is not unbiased


def test_group_ratio_has_unbiased_parts_and_a_small_known_bias():
    rng = np.random.default_rng(0)
    n, mean, scale = 16, np.array([1.0, 0.0, 0.5, 0.0]), np.array([3.0, 1.0, 1.0, 0.5])
    samples = mean + scale * rng.normal(size=(60_000, n, 4))
    trace = samples.var(1, ddof=1).sum(-1)
    signal = (samples.mean(1) ** 2).sum(-1) - trace / n
    total, r = (scale**2).sum(), (mean**2).sum() / (scale**2).sum()
    assert abs(z_score(signal, mean @ mean)) < Z
    assert abs(z_score(trace, total)) < Z
    first_order = (r + 1 / n) * 2 / (n - 1) * (scale**4).sum() / total**2
    np.testing.assert_allclose(np.mean(signal / trace) - r, first_order, rtol=0.2)


def test_group_parts_are_unbiased_without_gaussianity():
    rng = np.random.default_rng(1)
    n = 6
    samples = rng.exponential(size=(100_000, n, 3)) - 0.8  # skewed; mean 0.2, variance 1
    trace = samples.var(1, ddof=1).sum(-1)
    assert abs(z_score(trace, 3.0)) < Z
    assert abs(z_score((samples.mean(1) ** 2).sum(-1) - trace / n, 3 * 0.04)) < Z


def test_signal_between_shards_is_unbiased_also_in_a_class_balanced_draw():
    """Classes pull in opposite directions and are drawn in turn; the last shard is shorter."""
    rng = np.random.default_rng(20)
    mean, gap, sizes = np.array([0.1, 0.0]), np.array([0.0, 2.0]), np.array([4, 4, 2])
    n = sizes.sum()
    samples = mean + gap * (-1.0) ** np.arange(n)[:, None] + rng.normal(size=(100_000, n, 2))
    sums = np.stack([part.sum(1) for part in np.split(samples, np.cumsum(sizes)[:-1], axis=1)], axis=1)
    signal = ((sums.sum(1) ** 2).sum(-1) - (sums**2).sum((1, 2))) / (n**2 - (sizes**2).sum())
    assert abs(z_score(signal, mean @ mean)) < Z
    independent = (samples.mean(1) ** 2).sum(-1) - samples.var(1, ddof=1).sum(-1) / n
    assert z_score(independent, mean @ mean) < -10 * Z  # negative control: it falls below


def test_two_batch_noise_scale_of_mccandlish():
    rng = np.random.default_rng(2)
    mean, small, big = np.array([0.3, -0.2, 0.1]), 4, 32
    at_small = (mean + rng.normal(size=(200_000, 3)) / np.sqrt(small)) ** 2
    at_big = (mean + rng.normal(size=(200_000, 3)) / np.sqrt(big)) ** 2
    small_sq, big_sq = at_small.sum(1), at_big.sum(1)
    assert abs(z_score((big * big_sq - small * small_sq) / (big - small), mean @ mean)) < Z
    assert abs(z_score((small_sq - big_sq) / (1 / small - 1 / big), 3.0)) < Z


def test_readout_gsnr_at_the_zero_head():
    rng = np.random.default_rng(3)
    features = [rng.normal(size=(500, 5)) @ rng.normal(size=(5, 5)) + rng.normal(size=5) for _ in range(2)]
    z, y = np.concatenate(features), np.repeat([0.0, 1.0], 500)
    gradients = (0.5 - y)[:, None] * np.c_[z, np.ones(1000)]
    direct = (gradients.mean(0) ** 2).sum() / gradients.var(0).sum()
    m0, m1 = (part.mean(0) for part in features)
    within = np.mean([part.var(0).sum() for part in features])
    middle, gap = (m0 + m1) / 2, m1 - m0
    np.testing.assert_allclose(direct, gap @ gap / (4 * (within + middle @ middle + 1)), rtol=1e-12)


# Section 3: SAM, drift, COR on quadratics, where everything has a closed form


class Quadratic:
    """Batch losses ``g_B . x + x' H_B x / 2`` at x = 0: gradients G (K, P), Hessians H (K, P, P)."""

    def __init__(self, rng, *, common=True, definite=False, batches=6, size=4):
        self.gradients = rng.normal(size=size) + rng.normal(size=(batches, size))
        count = 1 if common else batches
        factors = rng.normal(size=(count, size, size))
        hessians = factors @ factors.transpose(0, 2, 1) if definite else factors + factors.transpose(0, 2, 1)
        self.hessians = np.broadcast_to(hessians, (batches, size, size))
        self.mean = self.gradients.mean(0)
        self.direction = np.einsum("kij,kj->i", self.hessians, unit(self.gradients)) / batches

    def drift(self, rho):
        at_ascent = self.gradients + np.einsum("kij,kj->ki", self.hessians, rho * unit(self.gradients))
        return at_ascent.mean(0) - self.gradients.mean(0)

    def alignment(self, rho):
        return self.mean @ (self.mean + self.drift(rho))

    @property
    def cor(self):
        return np.linalg.norm(self.mean) / np.linalg.norm(self.direction)

    @property
    def alignment_radius(self):
        slope = self.mean @ self.direction
        return self.mean @ self.mean / -slope if slope < 0 else np.inf


@pytest.mark.parametrize("common", [True, False])
def test_lemma_1_and_nesting_of_cor_and_alignment_radius(common):
    rng = np.random.default_rng(4)
    for _ in range(200):
        case = Quadratic(rng, common=common)
        norm = np.linalg.norm(case.mean)
        for rho in np.geomspace(1e-3, 10, 12):
            bound = norm * (norm - np.linalg.norm(case.drift(rho)))
            assert case.alignment(rho) >= bound - 1e-9 * (1 + abs(bound))
        np.testing.assert_allclose(np.linalg.norm(case.drift(case.cor)), norm)  # the fixed point
        assert case.cor <= case.alignment_radius * (1 + 1e-12)


def test_lemma_1_is_attained_by_a_drift_against_the_gradient():
    case = Quadratic(np.random.default_rng(0), batches=1)
    for share in (0.3, 1.0, 2.0):
        drift = -share * case.mean
        bound = np.linalg.norm(case.mean) * (np.linalg.norm(case.mean) - np.linalg.norm(drift))
        np.testing.assert_allclose(case.mean @ (case.mean + drift), bound, atol=1e-12)


@pytest.mark.parametrize(
    ("drift", "norm", "cor", "fixed"),
    [
        (lambda rho: 1.5 * np.sin(rho), 1.0, np.arcsin(2 / 3), True),  # comes back below 1, and crosses again
        (lambda rho: np.where(rho < 0.4, 0.5 * rho, 3.0), 1.0, 0.4, False),  # a kink: jumps over the crossing
        (lambda rho: 1 - np.exp(-rho), 1.0, np.inf, False),  # tends to the signal and never reaches it
        (lambda rho: 0.5 * rho, 0.0, 0.0, False),  # no signal
    ],
)
def test_definition_1_is_well_posed(drift, norm, cor, fixed):
    """Drift along one direction, on a fine grid: the set of Definition 1, its supremum, and the fixed points."""
    rho = np.linspace(0, 6, 600_001)
    admitted = np.logical_and.accumulate(np.r_[True, np.abs(drift(rho[1:])) < norm])
    assert admitted[0]
    count = int(admitted.sum())
    assert admitted[:count].all()  # an interval that begins at 0
    if np.isinf(cor):
        assert count == len(rho)
        return
    np.testing.assert_allclose(rho[count - 1], cor, atol=2e-5)
    crossings = rho[1:][np.abs(np.abs(drift(rho[1:])) - norm) < 2e-5]
    if fixed:
        np.testing.assert_allclose(abs(drift(cor)), norm)
        np.testing.assert_allclose(crossings.min(), cor, atol=1e-4)
        assert crossings.max() > 2 * cor  # negative control: the largest fixed point is another
    elif norm:
        assert not len(crossings)


def test_lipschitz_radius_is_below_cor_for_a_common_hessian():
    rng = np.random.default_rng(5)
    for _ in range(300):
        case = Quadratic(rng)
        curvature = np.abs(np.linalg.eigvalsh(case.hessians[0])).max()
        assert np.linalg.norm(case.mean) / curvature <= case.cor * (1 + 1e-12)


def test_that_nesting_needs_the_common_hessian():
    case = Quadratic(np.random.default_rng(0), batches=2, size=1)
    case.gradients, case.hessians = np.array([[1.0], [-0.5]]), np.array([[[2.0]], [[-2.0]]])
    assert case.hessians.mean() == 0  # the certificate of the mean Hessian would be infinite
    np.testing.assert_allclose(case.drift(0.1), [0.2])  # yet the drift is rho h


def test_batchwise_curvature_certifies_without_a_common_hessian():
    rng = np.random.default_rng(6)
    for _ in range(300):
        case = Quadratic(rng, common=False)
        curvature = np.mean([np.linalg.norm(hessian, 2) for hessian in case.hessians])
        assert np.linalg.norm(case.mean) / curvature <= case.cor * (1 + 1e-12)


def test_full_batch_alignment_needs_negative_curvature_but_mini_batches_do_not():
    rng = np.random.default_rng(7)
    full = [Quadratic(rng, definite=True, batches=1) for _ in range(300)]
    assert all(np.isinf(case.alignment_radius) for case in full)
    mini = [Quadratic(rng, definite=True, batches=3, size=2) for _ in range(3000)]
    assert any(np.isfinite(case.alignment_radius) for case in mini)


def test_whole_model_cor_lies_between_those_of_its_groups():
    rng = np.random.default_rng(8)
    for _ in range(200):
        case = Quadratic(rng, size=6)
        groups = [slice(0, 2), slice(2, 3), slice(3, 6)]
        cors = [np.linalg.norm(case.mean[g]) / np.linalg.norm(case.direction[g]) for g in groups]
        assert min(cors) <= case.cor * (1 + 1e-12)
        assert case.cor <= max(cors) * (1 + 1e-12)


def test_noisier_batches_raise_cor_on_a_common_hessian():
    rng = np.random.default_rng(9)
    mean, hessian = np.array([1.0, 0.5, 0.2]), np.diag([1.0, 2.0, 3.0])
    noise = rng.normal(size=(20_000, 3))
    cors = [
        np.linalg.norm(mean) / np.linalg.norm(hessian @ unit(mean + scale * noise).mean(0)) for scale in (0.1, 1.0, 5.0)
    ]
    assert cors[0] < cors[1] < cors[2]


def test_debiased_norm_and_its_variance():
    rng = np.random.default_rng(10)
    n, mean, variances = 12, np.array([0.3, 0.0, 0.15]), np.array([2.0, 0.5, 1.0])
    v = mean + np.sqrt(variances) * rng.normal(size=(100_000, n, 3))
    estimates = ((v.sum(1) ** 2).sum(-1) - (v**2).sum((1, 2))) / (n * (n - 1))
    assert abs(z_score(estimates, mean @ mean)) < Z
    naive = (v.mean(1) ** 2).sum(-1)
    assert abs(z_score(naive, mean @ mean)) > 10 * Z  # negative control
    variance = 4 / n * (mean**2 * variances).sum() + 2 * (variances**2).sum() / (n * (n - 1))
    np.testing.assert_allclose(estimates.var(), variance, rtol=0.03)


def test_variance_of_the_debiased_norm_without_gaussianity():
    rng = np.random.default_rng(21)
    n, mean = 8, np.array([0.4, 0.1])
    v = mean + rng.exponential(size=(200_000, n, 2)) - 1  # skewed, variance 1
    estimates = ((v.sum(1) ** 2).sum(-1) - (v**2).sum((1, 2))) / (n * (n - 1))
    np.testing.assert_allclose(estimates.var(), 4 / n * (mean @ mean) + 2 * 2 / (n * (n - 1)), rtol=0.03)


def test_alignment_pairs_a_batch_with_the_others():
    """A perturbed gradient that depends on its own batch: pairs with itself would add their covariance."""
    rng = np.random.default_rng(22)
    count, mean, matrix = 6, np.array([0.3, -0.2]), np.array([[0.5, 1.0], [0.0, -0.8]])
    g = mean + rng.normal(size=(100_000, count, 2))
    perturbed = g @ matrix.T + 0.1
    pairs = np.einsum("nji,nki->njk", g, perturbed)
    own = np.einsum("njj->n", pairs)
    truth = mean @ (matrix @ mean + 0.1)
    assert abs(z_score((pairs.sum((1, 2)) - own) / (count * (count - 1)), truth)) < Z
    assert abs(z_score(pairs.mean((1, 2)), truth)) > 5 * Z  # negative control


def test_standard_error_without_signal_falls_like_one_over_n():
    rng = np.random.default_rng(11)
    spread = {}
    for n in (16, 64):
        v = rng.normal(size=(8_000, n, 10))
        spread[n] = (((v.sum(1) ** 2).sum(-1) - (v**2).sum((1, 2))) / (n * (n - 1))).std()
    np.testing.assert_allclose(spread[16] / spread[64], 4.0, rtol=0.1)  # not 2, as for one over sqrt(n)


def test_bootstrap_must_leave_out_pairs_of_a_batch_with_its_own_copy():
    rng = np.random.default_rng(12)
    count = 16
    v = rng.normal(size=(count, 30))
    gram = v @ v.T
    weights = rng.multinomial(count, np.full(count, 1 / count), size=20_000).astype(float)
    pairs = np.einsum("bj,jk,bk->b", weights, gram, weights)
    own = weights**2 @ np.diag(gram)
    excluded = (pairs - own) / (count**2 - (weights**2).sum(1))
    included = (pairs - weights @ np.diag(gram)) / (count * (count - 1))  # a copy counted as another batch
    estimate = (gram.sum() - np.trace(gram)) / (count * (count - 1))
    spread = excluded.std()
    assert abs(excluded.mean() - estimate) < 0.1 * spread
    expected_bias = (gram.sum() / count**2) - estimate  # included pairs turn the estimate into |mean|^2
    np.testing.assert_allclose(expected_bias, v.var(0, ddof=1).sum() / count)
    np.testing.assert_allclose(included.mean() - estimate, expected_bias, rtol=0.1)
    assert expected_bias > spread


# Section 4: decomposition


def decomposed(case, batch_size=1):
    """Signal fraction, misspecification and gradient norm of a quadratic whose batches are single samples."""
    signal = case.mean @ case.mean
    trace = case.gradients.var(0).sum() * batch_size
    r = signal / trace
    misspecification = np.linalg.norm(case.mean) / case.cor / (signal + trace)
    return r, misspecification, np.sqrt(signal)


@pytest.mark.parametrize("common", [True, False])
def test_decomposition_is_exact(common):
    rng = np.random.default_rng(13)
    for _ in range(100):
        case = Quadratic(rng, common=common)
        r, m, norm = decomposed(case)
        np.testing.assert_allclose(r / (1 + r) / (m * norm), case.cor, rtol=1e-12)
        fisher = np.einsum("ki,ki->", case.gradients, case.gradients) / len(case.gradients)
        np.testing.assert_allclose(norm**2 * (1 + 1 / r), fisher, rtol=1e-12)  # tr F = |mu|^2 (1 + 1/r)
        np.testing.assert_allclose(m, np.linalg.norm(case.direction) / fisher, rtol=1e-12)


def test_collapse_equivalence_of_corollary_1():
    rng = np.random.default_rng(14)
    r, m, norm, rho = np.exp(rng.uniform(-5, 3, size=(4, 20_000)))
    cor = r / (1 + r) / (m * norm)
    c = rho * m * norm
    with np.errstate(divide="ignore"):
        threshold = np.where(c < 1, c / (1 - c), np.inf)
    assert np.array_equal(cor < rho, r < threshold)
    assert (c >= 1).any()
    assert (c < 1).any()


def test_misspecification_is_a_number_just_where_the_curve_crosses():
    case = Quadratic(np.random.default_rng(1))
    assert 0 < decomposed(case)[1] < np.inf
    flat = Quadratic(np.random.default_rng(1))
    flat.direction = np.zeros_like(flat.direction)  # no curvature: no crossing, and no L to divide
    with np.errstate(divide="ignore"):
        assert np.isinf(flat.cor)
    still = Quadratic(np.random.default_rng(1))
    still.gradients = still.gradients - still.mean  # mu = 0 while tr F > 0
    still.mean = still.gradients.mean(0)
    np.testing.assert_allclose(still.cor, 0, atol=1e-12)
    assert (still.gradients**2).sum() > 0


def test_misspecification_is_at_most_one_for_definite_batches_under_the_information_equality():
    rng = np.random.default_rng(15)
    for _ in range(200):
        case = Quadratic(rng, common=False, definite=True)
        fisher_trace = np.trace(case.hessians.mean(0))  # tr F = tr E H where the model is well specified
        assert np.linalg.norm(case.direction) <= fisher_trace


# Section 5: margin, rho="auto", escape radius


def test_mean_batch_norm_is_below_its_root_mean_square():
    rng = np.random.default_rng(16)
    mean, batch_size = np.array([1.0, 0.0, 0.5, 0.0]), 4
    norms = np.linalg.norm(mean + rng.normal(size=(100_000, 4)) * 3 / np.sqrt(batch_size), axis=1)
    r = mean @ mean / (4 * 9)
    bound = np.linalg.norm(mean) * np.sqrt(1 + 1 / (batch_size * r))
    np.testing.assert_allclose(np.sqrt(np.mean(norms**2)), bound, rtol=0.01)
    assert norms.mean() < 0.97 * bound


def test_sams_objective_is_first_order_up_to_half_the_curvature():
    rng = np.random.default_rng(23)
    angles = np.linspace(0, 2 * np.pi, 2000)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for _ in range(50):
        case = Quadratic(rng, common=False, size=2)
        for rho in (0.01, 0.1, 1.0):
            steps = np.concatenate([rho * share * circle for share in np.linspace(0, 1, 21)])
            losses = steps @ case.gradients.T + np.einsum("ni,kij,nj->nk", steps, case.hessians, steps) / 2
            beta = max(np.linalg.norm(hessian, 2) for hessian in case.hessians)
            first_order = rho * np.linalg.norm(case.gradients, axis=1).mean()
            assert abs(losses.max(0).mean() - first_order) <= beta * rho**2 / 2 + 1e-5 * first_order


def test_escape_radius_is_the_largest_radius_at_which_leaving_pays():
    rng = np.random.default_rng(17)
    for _ in range(100):
        losses, norms = 0.7 - rng.uniform(0.01, 0.6, 8), 1 + rng.uniform(0.1, 5, 8)
        escape = max((0.7 - losses) / (norms - 1))
        for rho, pays in ((0.999 * escape, True), (1.001 * escape, False)):
            assert (losses + rho * norms < 0.7 + rho * 1.0).any() == pays


def objective(case, losses, rho):
    """SAM's first-order and true objective, averaged over batches, for batch losses that are quadratic."""
    angles = np.linspace(0, 2 * np.pi, 2000)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    steps = np.concatenate([rho * share * circle for share in np.linspace(0, 1, 11)])
    rise = steps @ case.gradients.T + np.einsum("ni,kij,nj->nk", steps, case.hessians, steps) / 2
    norms = np.linalg.norm(case.gradients, axis=1)
    return np.mean(losses) + rho * norms.mean(), np.mean(losses + rise.max(0))


def test_sam_prefers_a_state_to_the_plateau_below_its_margin():
    rng = np.random.default_rng(29)
    for _ in range(50):
        case = Quadratic(rng, common=False, size=2)
        losses = rng.uniform(0.1, 0.6, len(case.gradients))
        gain, norm = 0.7 - losses.mean(), np.linalg.norm(case.gradients, axis=1).mean()
        margin, beta = gain / norm, max(np.linalg.norm(hessian, 2) for hessian in case.hessians)
        sufficient = 2 * margin / (1 + np.sqrt(1 + 2 * beta * margin / norm))
        for share in (0.5, 0.999):
            assert objective(case, losses, share * margin)[0] < 0.7
            assert objective(case, losses, share * sufficient)[1] < 0.7
        assert objective(case, losses, 1.001 * margin)[0] > 0.7


def test_the_margin_is_bounded_by_the_gsnr():
    rng = np.random.default_rng(30)
    mean, gain, bounds = np.array([1.0, 0.0, 0.5, 0.0]), 0.4, []
    for scale, batch_size in ((9.0, 4), (3.0, 4), (3.0, 16), (0.3, 16)):  # br rises
        norms = np.linalg.norm(mean + rng.normal(size=(50_000, 4)) * scale / np.sqrt(batch_size), axis=1)
        r = mean @ mean / (4 * scale**2)
        bounds.append(gain / np.linalg.norm(mean) / np.sqrt(1 + 1 / (batch_size * r)))
        assert gain / norms.mean() >= bounds[-1] * 0.999
    assert bounds == sorted(bounds)
    assert gain / norms.mean() == pytest.approx(bounds[-1], rel=0.01)  # close to equality where noise is small


def test_auto_never_lifts_sams_objective_above_the_plateau():
    rng = np.random.default_rng(31)
    for _ in range(100):
        case = Quadratic(rng, common=False, size=2)
        losses = rng.uniform(0.1, 0.6, len(case.gradients))
        plateau, share, floor = 0.7, rng.uniform(0.05, 1), rng.uniform(0, losses.mean())
        norm, beta = np.linalg.norm(case.gradients, axis=1).mean(), max(np.linalg.norm(h, 2) for h in case.hessians)
        gain = plateau - losses.mean()
        rho = share * gain / norm * (losses.mean() - floor) / (plateau - floor)
        first_order, _ = objective(case, losses, rho)
        assert first_order <= plateau
        assert rho * norm <= share / 4 * (plateau - floor) + 1e-12
        bounded = min(rho, np.sqrt(2 * (1 - share) * gain / beta))
        assert objective(case, losses, bounded)[1] <= plateau
