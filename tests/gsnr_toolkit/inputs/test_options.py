import pytest

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.options import ProbeOptions, make_options


def test_rho_is_among_the_radii_where_all_of_them_are_smaller():
    assert make_options(radii=[0.001, 0.01], rho=0.05).grid == (0.001, 0.01, 0.05)
    assert make_options(radii=[0.001, 0.05], rho=0.05).grid == (0.001, 0.05)
    assert make_options(radii=[0.001, 0.1], rho=0.05).grid == (0.001, 0.1)
    assert make_options(radii=[0.001, 0.01], rho=0.05).to_dict()["radii"] == [0.001, 0.01, 0.05]
    assert len(ProbeOptions(rho=3.0).grid) == 6


@pytest.mark.parametrize("rho", [0.0, -1.0, float("inf"), float("nan")])
def test_rho(rho):
    with pytest.raises(ProbeError, match="rho to be a positive radius"):
        ProbeOptions(rho=rho)


@pytest.mark.parametrize("radii", [[0.1, float("inf")], [float("nan"), 0.1], [0.1, float("nan")], [0.1], [0.0, 0.1]])
def test_radii(radii):
    with pytest.raises(ProbeError, match="positive, increasing radii"):
        make_options(radii=radii)


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5, "1"])
def test_seeds_that_no_generator_takes(seed):
    with pytest.raises(ProbeError, match=r"seed to be an integer from 0 to 2\^63 - 1"):
        ProbeOptions(seed=seed)


def test_the_largest_seed():
    assert ProbeOptions(seed=2**63 - 1).seed == 2**63 - 1
