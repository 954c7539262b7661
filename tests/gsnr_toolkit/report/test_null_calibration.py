"""Without anything to learn, a verdict that decides is a false one: how often is it given?"""

from collections import Counter

import pytest
import torch
from scipy.stats import binom
from torch import nn

from gsnr_toolkit import estimate_cor
from gsnr_toolkit.report.outcome import collapse_outcome

SEEDS = 200
RADII = (0.001, 0.02, 0.3, 10.0)
"""From far below to far above the COR of such models; each is asked of the same measurements."""


def outcomes(samples, batch_size, *, signal, seeds=SEEDS):
    """Counts of the outcome for each radius, over models and data of their own."""
    counts = {rho: Counter() for rho in RADII}
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(samples, 6, generator=generator)
        labels = torch.rand(samples, generator=generator) < 0.5
        if signal:
            labels = inputs[:, 0] + inputs[:, 1] > 0
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
        with torch.no_grad():
            model[2].bias.zero_()
            model[2].weight.mul_(0.1)  # near the plateau: the mean gradient of coin flips is zero
        report = estimate_cor(
            model,
            [(inputs, labels.long())],
            batch_size=batch_size,
            progress=False,
            refine=0,
            radii=(0.01, 0.1, 1.0, 5.0),
        )
        for rho in RADII:
            counts[rho][collapse_outcome(report.total, rho)] += 1
    return counts


def most_by_chance(share, seeds):
    """The largest count that a true share gives with a probability of .999."""
    return int(binom.ppf(0.999, seeds, share))


CASES = [(16, 2, 40), *(pytest.param(*case, SEEDS, marks=pytest.mark.slow) for case in ((16, 2), (64, 8), (256, 32)))]


@pytest.mark.parametrize(("samples", "batch_size", "seeds"), CASES)
def test_coin_flips_are_undecided(samples, batch_size, seeds):
    for rho, count in outcomes(samples, batch_size, signal=False, seeds=seeds).items():
        for outcome in ("inside", "outside"):
            assert count[outcome] <= most_by_chance(0.05, seeds), (rho, count)


def test_a_clear_signal_is_decided():
    counts = outcomes(256, 16, signal=True, seeds=20)
    assert counts[0.001]["outside"] >= 15
    assert counts[10.0]["inside"] >= 15
