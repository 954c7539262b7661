import sys

import pytest

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.sweeps.grid import make_grid
from gsnr_toolkit.sweeps.sweep import run_grid
from gsnr_toolkit.training.config import TrainConfig
from tests.support.fake_training import FAILS, KILLED_ONCE, SAYS_NOTHING

FAKE = "tests.support.fake_training:run_training"


def test_without_ray_the_way_to_get_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ProbeError, match=r"expected Ray for --ray, but it is not installed; run pip install 'gsnr-toolkit\[ray\]'"
    ):
        run_grid(make_grid(TrainConfig(), {"rho": [0]}), tmp_path, ray="local", function=FAKE)


@pytest.mark.slow
def test_a_sweep_on_a_local_ray(tmp_path):
    """Real Ray tasks in processes of their own; a failed and a killed one leave the others alone."""
    pytest.importorskip("ray")
    grid = make_grid(TrainConfig(steps=5), {"rho": [0.0, FAILS, KILLED_ONCE, SAYS_NOTHING, 0.05]})
    table = run_grid(grid, tmp_path, workers=2, device="cpu", ray="local", function=FAKE)
    assert table["status"].tolist() == ["ok", "failed", "failed", "failed", "dead"]
    assert table["message"][1] == "ValueError: no luck"
    assert "its Ray task ended with" in table["message"][2]
    assert "another machine of the cluster trained it" in table["message"][3]
    again = run_grid(grid, tmp_path, workers=2, device="cpu", ray="local", function=FAKE)
    assert again["status"].tolist() == ["ok", "failed", "dead", "failed", "dead"]
    assert len((tmp_path / "runs" / again["key"][0] / "begun").read_text().splitlines()) == 1


def test_a_cluster_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(ProbeError, match=r"expected a Ray cluster at 'auto', but connecting to it failed: .*"):
        run_grid(make_grid(TrainConfig(), {"rho": [0]}), tmp_path, ray="auto", function=FAKE)
