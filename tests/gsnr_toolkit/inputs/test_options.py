import json

import numpy as np
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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": "tap"}, "engine to be one of 'auto', 'taps', 'vmap', 'loop', got 'tap'; .* Did you mean 'taps'"),
        ({"rho": -1}, "rho to be a positive radius, such as 0.05, got -1; change it, or leave it out .* 0.05"),
        ({"refine": 6}, "refine to be a whole number from 0 up to 5, got 6"),
        ({"confidence": 1.0}, "confidence to be between 0 and 1, such as 0.95, got 1.0"),
        ({"memory": 0}, "memory to be a positive number of bytes, got 0"),
        ({"batch_size": 0}, "batch_size to be a whole number from 1, got 0"),
        ({"max_samples": 0}, "max_samples to be a whole number from 1, got 0"),
        ({"readout_head": "one"}, "readout_head to be one of 'zero', 'fitted'"),
        ({"lipschitz": "no"}, "lipschitz to be true or false, got 'no'"),
        ({"radii": "abc"}, "increasing radii, such as 0.01,0.03,0.1, got 'abc'"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ProbeError, match=message):
        ProbeOptions(**values)


def test_values_stay_as_the_caller_wrote_them():
    options = ProbeOptions(rho=1, seed=np.int64(3), memory=2e9)
    assert isinstance(options.to_dict()["rho"], int)
    assert (options.seed, options.memory) == (3, 2e9)


def test_numpy_scalars_become_python_numbers():
    given = {
        "seed": np.int64(3),
        "rho": np.float64(0.1),
        "lipschitz": np.True_,
        "self_check": 0,
        "max_samples": np.int32(9),
        "batch_size": 8.0,
    }
    options = ProbeOptions(**given)
    assert [type(getattr(options, name)) for name in given] == [int, float, bool, bool, int, int]
    assert options == ProbeOptions(seed=3, rho=0.1, lipschitz=True, self_check=False, max_samples=9, batch_size=8)
    assert json.loads(json.dumps(options.to_dict()))["seed"] == 3
    with pytest.raises(ProbeError, match="expected lipschitz to be true or false, got 2"):
        ProbeOptions(lipschitz=2)
