import json

import numpy as np
import pytest

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.sweeps.grid import Grid, check_names, label, make_grid, read_grid
from gsnr_toolkit.sweeps.grid_file import read_grid_file
from gsnr_toolkit.training.config import TrainConfig


def test_every_combination_once_and_the_first_seed_first():
    grid = make_grid(TrainConfig(steps=7), {"seed": [3, 4], "data": ["demo-nt", "demo-df"], "rho": [0.1, 0]})
    found = [(c.seed, c.data, c.rho, c.steps) for c in grid.configs]
    assert found == [(s, d, r, 7) for s in (3, 4) for d in ("demo-nt", "demo-df") for r in (0.1, 0.0)]
    assert grid.shown == ("data", "rho", "seed")
    assert len({config.key for config in grid.configs}) == 8


@pytest.mark.parametrize("values", [[0, 0.05], [0.0, "0.05"], np.array([0, 0.05]), [np.float64(0), 0.05, 0.050]])
def test_a_value_is_one_run_however_it_is_written(values):
    keys = [config.key for config in make_grid(TrainConfig(), {"rho": values}).configs]
    assert keys == [TrainConfig(rho=0.0).key, TrainConfig(rho=0.05).key]
    assert make_grid(TrainConfig(rho=0), {}).configs[0].key == TrainConfig(rho=0.0).key
    assert [type(c.seed) for c in make_grid(TrainConfig(), {"seed": np.arange(2)}).configs] == [int, int]


def test_any_setting_may_vary():
    axes = {"eval_data": [[], ["demo-cdf"]], "strength": [None, 2], "rho": ["auto", 0.01], "optimizer": ["sgd", "adam"]}
    configs = make_grid(TrainConfig(), axes).configs
    assert len(configs) == 16
    assert configs[0] == TrainConfig(rho="auto", optimizer="sgd")
    assert configs[-1] == TrainConfig(eval_data=("demo-cdf",), strength=2.0, rho=0.01, optimizer="adam")
    assert label(configs[-1], ["data", "eval_data", "rho"]) == "demo-nt, eval_data demo-cdf, rho 0.01"


def test_a_grid_survives_its_file():
    grid = make_grid(TrainConfig(steps=9), {"rho": [0, "auto"], "eval_data": [[], ["demo-cdf", "demo-gan"]]})
    again = Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert dict(again.values) == dict(grid.values)
    assert grid.to_dict()["axes"] == {"rho": [0.0, "auto"], "eval_data": [[], ["demo-cdf", "demo-gan"]]}


def test_settings_of_an_axis_are_not_checked_against_a_default():
    """The default of 300 steps contradicts 400 plain steps; the values of the axis do not."""
    grid = read_grid({"plain_steps": 400, "rho": 0.1}, {"steps": [500, 600]})
    assert [config.steps for config in grid.configs] == [500, 600]
    again = Grid.from_dict(grid.to_dict())
    assert again.configs == grid.configs


def test_records_of_plain_runs_alone():
    grid = read_grid({"record_every": 50}, {"rho": [0, 0.1, "auto"]}, record_plain=True)
    assert [config.record_every for config in grid.configs] == [50, 0, 0]
    again = Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert again.configs == grid.configs
    everywhere = read_grid({"record_every": 50}, {"rho": [0, 0.1, "auto"]})
    assert [config.record_every for config in everywhere.configs] == [50, 50, 50]
    assert grid.lost_in(everywhere) == {"record_plain": (True,)}
    # an axis of what is watched does not train the same run twice
    assert len(make_grid(TrainConfig(), {"record_every": [10, 20], "rho": [0, 0.1]}, record_plain=True).configs) == 3


def test_what_is_lost_in_another_grid():
    small = make_grid(TrainConfig(), {"rho": [0, 0.1]})
    large = make_grid(TrainConfig(), {"rho": [0, 0.1, 0.2], "seed": [0, 1]})
    other = make_grid(TrainConfig(steps=10), {"rho": [0, 0.1]})
    assert small.lost_in(large) == {}
    assert large.lost_in(small) == {"rho": (0.2,), "seed": (1,)}
    assert small.lost_in(other) == {"steps": (300,)}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"rhoo": [0]}, r"'rhoo'.* Did you mean 'rho'\?"),
        ({"rho": []}, "expected at least one value for rho, got none"),
        ({"rho": 0.1}, r"expected a list of values for rho, got 0.1; write \[0.1\]"),
        ({"data": "demo-nt"}, r"expected a list of values for data, got 'demo-nt'; write \['demo-nt'\]"),
        ({"rho": [-1]}, "expected rho to be a number from 0, got -1"),
        ({"steps": [10, "many"]}, "expected steps to be a whole number from 1, got 'many'"),
    ],
)
def test_what_makes_no_grid_is_refused(axes, message):
    with pytest.raises(ProbeError, match=message):
        make_grid(TrainConfig(), axes)


def test_a_combination_that_contradicts_itself_is_named():
    grid = make_grid(TrainConfig(), {"rho": [0, "cor"], "method": ["sam", "asam"]})
    with pytest.raises(ProbeError, match=r"combination rho cor, method asam: expected method 'sam'"):
        grid.configs  # noqa: B018


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"data": ["demo-nt", "demo-fd"]}, "a known data set, got 'demo-fd'; .* Did you mean"),
        ({"eval_data": [["demo-xyz"]]}, "a known data set, got 'demo-xyz'"),
        ({"model": ["clip-dmeo"]}, "Did you mean 'clip-demo'"),
        ({"tuning": ["norm"]}, "Did you mean 'norms'"),
    ],
)
def test_names_that_do_not_exist_are_refused_before_anything_runs(axes, message):
    with pytest.raises(ProbeError, match=message):
        check_names(make_grid(TrainConfig(), axes))
    check_names(make_grid(TrainConfig(model="my:model"), {"data": ["image-folder:/x", "my.data:make", "nt"]}))


def test_a_file_is_read(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text('[base]\nsteps = 20\neval_data = ["demo-cdf"]\n[axes]\nrho = [0, 0.05, "auto"]\nseed = [0, 1]\n')
    base, axes = read_grid_file(path)
    configs = read_grid(base, axes).configs
    assert len(configs) == 6
    assert configs[1] == TrainConfig(steps=20, eval_data=("demo-cdf",), rho=0.05)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[bas]\nsteps = 1", r"expected the tables \[base\] and \[axes\], got 'bas'; rename it. Did you mean 'base'\?"),
        ("steps = 1", r"got 'steps'; write 'steps' below \[base\]"),
        ("[base]\nstpes = 1", r"\[base\]: .*'stpes'.* Did you mean 'steps'\?"),
        ("[axes]\nrhos = [1]", r"\[axes\]: .*'rhos'.* Did you mean 'rho'\?"),
        ("[axes]\nrho = 0.1", r"expected a list for rho in \[axes\], got 0.1; move it to \[base\]"),
        ("[base]\nrho = [0.1]", r"expected one value for rho in \[base\], got \[0.1\]; move it to \[axes\]"),
        ("[base]\nrho = 0\n[axes]\nrho = [0.1]", r"expected rho in one table, got it in \[base\] and in \[axes\]"),
        ("rho = = 1", "to be TOML"),
    ],
)
def test_mistakes_in_a_file_name_file_and_key(tmp_path, text, message):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(ProbeError, match=message) as raised:
        read_grid_file(path)
    assert "grid.toml" in str(raised.value)


def test_a_file_that_is_not_there():
    with pytest.raises(ProbeError, match=r"no/such.toml cannot be read: No such file"):
        read_grid_file("no/such.toml")
