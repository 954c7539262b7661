import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from gsnr_toolkit.estimators.gsnr import (
    group_gsnr,
    group_totals,
    parameter_gsnr,
    samples_needed,
    summarise_parameters,
)
from gsnr_toolkit.inputs.groups import Group
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.moments.shards import MAX_SHARDS, ShardCollector
from gsnr_toolkit.moments.sketches import plan_rows
from tests.support.reference import group_gsnr as reference_gsnr
from tests.support.reference import mcclandish_two_batch


def _estimate(grads, shard_size=None, budget=2**30, confidence=0.95):
    """Group GSNR of samples (n, P) in two groups: the first third of the coordinates, and the rest."""
    tensors = {
        "a": torch.from_numpy(grads[:, : grads.shape[1] // 3]),
        "b": torch.from_numpy(grads[:, grads.shape[1] // 3 :]),
    }
    params = {name: value[0] for name, value in tensors.items()}
    plan = plan_rows(params, {"a": Group("A", 0), "b": Group("B", 1)}, num_rows=MAX_SHARDS + 1, budget=budget)
    collector, total = ShardCollector(plan, size=shard_size or -(-len(grads) // MAX_SHARDS)), Moments()
    start = 0
    while start < len(grads):
        shard = Moments.from_samples({name: value[start : start + collector.size] for name, value in tensors.items()})
        start += shard.count
        collector.add(shard)
        total.absorb(shard)
    return group_gsnr(group_totals(total, plan), collector.summary(), confidence), total


def _gaussian(rng, n, gsnr, spectrum):
    mean = np.sqrt(gsnr * spectrum.sum() / len(spectrum))
    return mean + rng.normal(size=(n, len(spectrum))) * np.sqrt(spectrum)


@pytest.mark.parametrize(("shard_size", "joined"), [(1, 4), (2, 4), (3, 3), (7, 7)])
def test_streaming_equals_the_two_pass_reference(shard_size, joined):
    """Fifty samples; eighteen shards are joined pairwise on the way."""
    grads = _gaussian(np.random.default_rng(0), 50, 0.1, np.linspace(0.1, 2, 30))
    estimate, _ = _estimate(grads, shard_size)
    for i, columns in enumerate((slice(0, 10), slice(10, 30), slice(0, 30))):
        expected = reference_gsnr(grads[:, columns], joined)
        np.testing.assert_allclose(estimate.gsnr[i], expected["gsnr"], rtol=1e-10)
        np.testing.assert_allclose(estimate.plugin[i], expected["plugin"], rtol=1e-10)
        np.testing.assert_allclose(estimate.trace_covariance[i], expected["trace"], rtol=1e-10)
        np.testing.assert_allclose(estimate.mean_sqnorm[i], expected["mean_sqnorm"], rtol=1e-9)


def test_shards_of_one_sample_give_the_textbook_formula():
    grads = _gaussian(np.random.default_rng(0), 16, 0.1, np.linspace(0.1, 2, 30))
    estimate, _ = _estimate(grads, 1)
    mean, trace = grads.mean(0), grads.var(0, ddof=1).sum()
    np.testing.assert_allclose(estimate.gsnr[-1], (mean @ mean - trace / 16) / trace, rtol=1e-10)


def test_class_balanced_draws_do_not_push_the_estimate_below_zero():
    """Two classes in turn with opposite mean gradients and no signal: the textbook formula fails, shards do not."""
    rng = np.random.default_rng(10)
    ours, textbook, hits = [], [], 0
    for _ in range(200):
        grads = rng.normal(size=(64, 40)) + np.where(np.arange(64) % 2, 2.0, -2.0)[:, None]
        estimate, _ = _estimate(grads)
        ours.append(estimate.gsnr[-1])
        hits += estimate.low[-1] <= 0 <= estimate.high[-1]
        textbook.append(reference_gsnr(grads)["gsnr"])
    ours, textbook = np.array(ours), np.array(textbook)
    assert abs(ours.mean()) < 4 * ours.std() / np.sqrt(200)
    assert textbook.mean() < -20 * textbook.std() / np.sqrt(200)
    assert hits / 200 > 0.9


def test_jackknife_is_the_literal_one():
    """The interval from shard sums equals one computed by deleting samples and starting over."""
    grads = _gaussian(np.random.default_rng(1), 48, 0.2, np.linspace(0.5, 1, 12))
    estimate, _ = _estimate(grads)
    full = reference_gsnr(grads, 3)
    floor = full["plugin"] - full["gsnr"]
    logs = [
        np.log(reference_gsnr(np.delete(grads, block, axis=0), 3)["gsnr"] + floor)
        for block in np.array_split(np.arange(48), 16)
    ]
    error = np.sqrt(15 / 16 * np.sum((np.array(logs) - np.mean(logs)) ** 2))
    reach = stats.t.ppf(0.975, 15) * error
    np.testing.assert_allclose(estimate.low[-1], full["plugin"] * np.exp(-reach) - floor, rtol=1e-8)
    np.testing.assert_allclose(estimate.high[-1], full["plugin"] * np.exp(reach) - floor, rtol=1e-8)


@pytest.mark.parametrize("gsnr", [0.0, 0.02, 0.5])
def test_unbiased_over_seeds(gsnr):
    """z-test of the corrected estimate, and of the plug-in against its own expectation."""
    n, spectrum = 40, np.linspace(0.2, 1.8, 60)
    rng = np.random.default_rng(2)
    found = [_estimate(_gaussian(rng, n, gsnr, spectrum))[0] for _ in range(400)]
    corrected = np.array([estimate.gsnr[-1] for estimate in found])
    plugin = np.array([estimate.plugin[-1] for estimate in found])
    error = corrected.std(ddof=1) / np.sqrt(len(corrected))
    ratio_bias = gsnr * 2 * (spectrum**2).sum() / spectrum.sum() ** 2 / (n - 1)  # O(1/n), from dividing
    assert abs(corrected.mean() - gsnr - ratio_bias) < 4 * error
    assert plugin.mean() - gsnr > 10 * error  # negative control: the plug-in is not
    assert abs(plugin.mean() - 1 / n - gsnr - ratio_bias) < 4 * error


@pytest.mark.parametrize("gsnr", [0.0, 0.05, 1.0])
def test_parameter_gsnr_is_unbiased_for_gaussian_gradients(gsnr):
    n, rng = 12, np.random.default_rng(3)
    grads = torch.from_numpy(np.sqrt(gsnr) + rng.normal(size=(n, 200_000)))
    moments = Moments.from_samples({"w": grads})
    values = parameter_gsnr(moments.mean["w"], moments.m2["w"], n)
    error = values.std() / np.sqrt(values.numel())
    assert abs(values.mean() - gsnr) < 4 * error
    plugin = moments.mean["w"].square() / (moments.m2["w"] / (n - 1))
    expected = (n - 1) / (n - 3) * (gsnr + 1 / n)
    assert abs(plugin.mean() - expected) < 4 * plugin.std() / np.sqrt(values.numel())


@pytest.mark.parametrize(
    ("gsnr", "dims"),
    [
        (0.0, 3),
        (0.1, 60),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in itertools.product((0.01, 1.0), (3, 60))),
        pytest.param(0.0, 60, marks=pytest.mark.slow),
        pytest.param(0.1, 3, marks=pytest.mark.slow),
    ],
)
def test_coverage_of_the_intervals(gsnr, dims):
    spectrum, rng = 1 / np.arange(1, dims + 1), np.random.default_rng(4)
    hits = 0
    for _ in range(600):
        estimate, _ = _estimate(_gaussian(rng, 64, gsnr, spectrum))
        hits += estimate.low[-1] <= gsnr <= estimate.high[-1]
    # at zero signal the jackknife of a degenerate statistic is known to be wide
    assert 0.90 <= hits / 600 <= (0.99 if gsnr else 1.0)


def test_agrees_with_mcclandish_two_batch_estimator():
    rng, spectrum = np.random.default_rng(5), np.linspace(0.5, 1.5, 40)
    ours, theirs = [], []
    for _ in range(200):
        grads = _gaussian(rng, 64, 0.1, spectrum)
        estimate, _ = _estimate(grads)
        ours.append((estimate.mean_sqnorm[-1], estimate.trace_covariance[-1]))
        theirs.append(mcclandish_two_batch(grads, 8))
    ours, theirs = np.array(ours), np.array(theirs)
    gap = ours - theirs
    assert (np.abs(gap.mean(0)) < 4 * gap.std(0, ddof=1) / np.sqrt(len(gap))).all()
    assert theirs[:, 1].std() > ours[:, 1].std()  # two batch sizes see less than all samples


@pytest.mark.parametrize(("decay", "widest"), [(1.0, 1.5), (0.0, 4.0)])
def test_sketches_keep_point_estimates_exact_and_intervals_safe(decay, widest):
    """Gradients of low effective dimension lose nothing; where the sketch is too short it errs on the wide side."""
    spectrum = 1 / np.arange(1, 30_001) ** decay
    grads = _gaussian(np.random.default_rng(6), 64, 0.05, spectrum)
    exact, _ = _estimate(grads)
    sketched, _ = _estimate(grads, budget=17 * 8 * 6000)
    np.testing.assert_allclose(sketched.gsnr, exact.gsnr, rtol=1e-9)
    ratio = ((sketched.high - sketched.low) / (exact.high - exact.low))[[0, 2]]
    assert ((ratio > 0.8) & (ratio < widest)).all()


def test_zero_variance_is_nan():
    grads = np.zeros((8, 6))
    grads[:, 2:] = np.random.default_rng(7).normal(size=(8, 4))
    estimate, total = _estimate(grads)
    assert np.isnan(estimate.gsnr[0])
    assert np.isfinite(estimate.gsnr[1:]).all()
    summary = summarise_parameters(total, ("a",))
    assert np.isnan(summary["gsnr_param_median"])
    assert summary["zero_variance"] == 1.0


def test_too_few_samples_for_the_correction():
    with pytest.raises(ValueError, match=r"more than 3 samples.*got 3"):
        parameter_gsnr(torch.ones(2), torch.ones(2), 3)


def test_summary_of_pure_noise():
    grads = torch.from_numpy(np.random.default_rng(8).normal(size=(64, 100_000)))
    moments = Moments.from_samples({"w": grads})
    summary = summarise_parameters(moments, ("w",))
    # under zero mean, n gbar^2 / S follows F(1, n - 1): this is the probability that the corrected GSNR exceeds 1/n
    assert abs(summary["gsnr_param_above_floor"] - stats.f.sf(2 * 63 / 61, 1, 63)) < 0.005
    values = parameter_gsnr(moments.mean["w"], moments.m2["w"], 64)
    np.testing.assert_allclose(summary["gsnr_param_median"], values.median(), atol=1e-6)
    assert summary["gsnr_param_p95"] > summary["gsnr_param_median"]


def test_a_summary_of_very_many_entries_takes_every_kth(monkeypatch):
    grads = torch.from_numpy(np.random.default_rng(8).normal(size=(64, 100_000)))
    moments = Moments.from_samples({"w": grads[:, :60_000], "v": grads[:, 60_000:]})
    full = summarise_parameters(moments, ("w", "v"))
    monkeypatch.setattr("gsnr_toolkit.estimators.gsnr.MOST_ENTRIES", 25_000)
    part = summarise_parameters(moments, ("w", "v"))
    assert part != full
    for name, value in full.items():
        np.testing.assert_allclose(part[name], value, atol=0.01)


def test_samples_needed_is_where_the_interval_clears_zero():
    rng, spectrum = np.random.default_rng(9), np.linspace(0.5, 1.5, 200)
    needed = []
    for _ in range(40):
        estimate, _ = _estimate(_gaussian(rng, 64, 0.004, spectrum))
        if estimate.low[-1] <= 0 < estimate.gsnr[-1]:
            needed.append(samples_needed(64, estimate.gsnr[-1], estimate.low[-1], estimate.high[-1]))
    n = int(np.median(needed))
    clear = [_estimate(_gaussian(rng, 4 * n, 0.004, spectrum))[0].low[-1] > 0 for _ in range(30)]
    assert np.mean(clear) > 0.6
    assert samples_needed(64, -0.01, -0.02, -0.001) == float("inf")
    assert samples_needed(64, -0.01, -0.02, 0.01) >= 128
