"""The benchmark of the range test on its cheapest setting."""

import math

import pytest

from analyses.radius.settings import SETTINGS
from analyses.radius.trials import plateau_of_problem
from benchmarks import range_test


def test_a_sweep_tries_every_radius_of_the_grid():
    radii = math.log(10 / 1e-3) / math.log(1.5)
    assert range_test.swept(10) == pytest.approx(100 * (1 + 2 * radii), rel=0.1)
    assert range_test.swept(40) == 2 * range_test.swept(20)


@pytest.mark.slow
def test_both_ways_find_the_radius(monkeypatch, capsys):
    problem = SETTINGS["wine-mlp"].build(0)
    plateau = plateau_of_problem(problem)
    found, plain_steps = range_test.searched(problem, plateau)
    blind = range_test.bisected(problem, plateau, plain_steps)
    for cost in (found, blind):
        assert cost.high / cost.low <= 1.5 * 1.001
    assert found.low < 1.3 * blind.high
    assert blind.low < 1.3 * found.high
    assert found.passes < range_test.swept(plain_steps)
    monkeypatch.setattr(range_test, "NAMES", ("wine-mlp",))
    range_test.main()
    assert "wine-mlp" in capsys.readouterr().out
