import errno
import subprocess
import sys

import pytest

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.atomic import write_json
from gsnr_toolkit.sweeps.folder import SweepFolder
from gsnr_toolkit.sweeps.grid import make_grid
from gsnr_toolkit.training.config import TrainConfig
from tests.support.fake_training import result

SMALL = make_grid(TrainConfig(steps=5), {"rho": [0, 0.1]})
LARGER = make_grid(TrainConfig(steps=5), {"rho": [0, 0.1, 0.2], "seed": [0, 1]})
OTHER = make_grid(TrainConfig(steps=6), {"rho": [0, 0.1]})


def test_a_folder_is_taken_once_more_and_extended(tmp_path):
    folder = SweepFolder(tmp_path / "new" / "out")
    assert folder.check(SMALL) == ""
    assert not folder.path.exists(), "checking writes nothing"
    assert folder.claim(SMALL) == ""
    assert folder.claim(SMALL) == ""
    assert folder.claim(LARGER) == "rho 0.2; seed 1"
    assert dict(folder.load_grid().values) == dict(LARGER.values)


def test_other_settings_are_refused_and_named(tmp_path):
    folder = SweepFolder(tmp_path)
    folder.claim(LARGER)
    with pytest.raises(ProbeError, match=r"only there: rho 0.2; seed 1; only here: nothing"):
        folder.claim(SMALL)
    with pytest.raises(ProbeError, match=r"only there: .*steps 5.*; only here: steps 6.*--overwrite"):
        folder.claim(OTHER)
    assert dict(folder.load_grid().values) == dict(LARGER.values)
    (tmp_path / "runs" / "kept").mkdir()
    folder.claim(OTHER, overwrite=True)
    assert dict(folder.load_grid().values) == dict(OTHER.values)
    assert (tmp_path / "runs" / "kept").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ProbeError, match=r"it has other files and no sweep.json"):
        SweepFolder(tmp_path).claim(SMALL)
    with pytest.raises(ProbeError, match=r"expected a folder, got the file .*thesis.tex"):
        SweepFolder(tmp_path / "thesis.tex").claim(SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ProbeError, match=r"expected .* to hold a sweep, but its sweep.json cannot be read"):
        SweepFolder(tmp_path).load_grid()


def test_states_of_a_run(tmp_path):
    folder, config = SweepFolder(tmp_path), SMALL.configs[0]
    assert folder.state(config) == "new"
    write_json_in(folder.run_folder(config) / "config.json", config.to_dict())
    assert folder.state(config) == "begun"
    assert folder.result(config) is None
    write_json_in(folder.failure_file(config), {"message": "no luck"})
    assert (folder.state(config), folder.failure(config)) == ("failed", "no luck")
    write_json_in(folder.run_folder(config) / "result.json", result(config))
    assert folder.state(config) == "done"
    assert folder.result(config)["test_auc"] == 0.9


def write_json_in(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)


def test_a_run_of_another_config_in_its_place_is_refused(tmp_path):
    folder, config = SweepFolder(tmp_path), SMALL.configs[0]
    write_json_in(folder.run_folder(config) / "config.json", SMALL.configs[1].to_dict())
    write_json_in(folder.run_folder(config) / "result.json", {})
    with pytest.raises(ProbeError, match=r"holds a run with other settings \(rho 0.1 there, 0.0 here\)"):
        folder.result(config)


def test_two_cannot_work_on_one_folder(tmp_path):
    folder = SweepFolder(tmp_path)
    script = (
        f"from gsnr_toolkit.sweeps.folder import SweepFolder\nwith SweepFolder({str(tmp_path)!r}).locked():\n"
        "    print('locked', flush=True)\n    input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        assert folder.busy
        with (
            pytest.raises(ProbeError, match=rf"another process \(process {other.pid}\) is working on it"),
            folder.locked(),
        ):
            pass
        other.kill()  # the lock goes with its process, however that ends
        other.wait()
    assert not folder.busy
    with folder.locked():
        pass


def test_a_sweep_that_found_no_space_may_begin_again(tmp_path, monkeypatch):
    def full(path, _):
        (path.parent / f".{path.name}.x.partial").touch()  # what a killed process leaves
        raise OSError(errno.ENOSPC, "No space left on device")

    folder, grid = SweepFolder(tmp_path / "new"), make_grid(TrainConfig(), {"rho": [0, 0.1]})
    with monkeypatch.context() as patch, pytest.raises(ProbeError, match="No space left"):
        patch.setattr("gsnr_toolkit.sweeps.folder.write_json", full)
        folder.claim(grid)
    (folder.path / "sweep.lock").touch()
    assert folder.claim(grid) == ""
    assert folder.load_grid() == grid
