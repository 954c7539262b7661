from dataclasses import replace

import pytest

from analyses.collapse import laboratory
from analyses.collapse.laboratory import Setting, collapsed, explore, run_folder, table
from analyses.support import processes
from gsnr_toolkit import TrainConfig
from gsnr_toolkit.training.run import read_result

CONFIG = TrainConfig(
    model="tests.support.tiny_detector:tiny_model", data="demo-df", strength=3.0, steps=24, batch_size=8,
    train_samples=64,
    eval_samples=60, lr=3e-3,
)  # fmt: skip


def _row(**changes):
    return {"status": "ok", "test_auc_high": 0.8, **changes}


def test_what_counts_as_collapsed():
    assert not collapsed(_row())
    assert collapsed(_row(test_auc_high=0.549))
    assert collapsed(_row(status="dead"))
    assert collapsed(_row(status="diverged", test_auc_high=float("nan")))


def test_plain_runs_are_recorded_and_others_are_not():
    setting = Setting("x", replace(CONFIG, stop_dead=50))
    plain, sam = setting.run_config(0.0, 1), setting.run_config(0.1, 1)
    assert (plain.record_every, plain.stop_dead, plain.seed) == (laboratory.RECORD_EVERY, 0, 1)
    assert (sam.record_every, sam.stop_dead, sam.rho) == (0, 50, 0.1)


@pytest.fixture
def verdicts(monkeypatch):
    """Replace training by a table of which radius collapses."""
    trained = []

    def train_all(configs, runs, *, workers, device):
        for config in configs:
            trained.append((config.rho, config.seed))
            yield config

    def row(config, runs=None):
        if (config.rho, config.seed) not in trained:
            return None
        dead = config.rho >= 0.2 + 0.2 * config.seed
        return _row(test_auc=0.5, train_loss=0.6, seconds=1.0, status="dead" if dead else "ok")

    monkeypatch.setattr(laboratory, "train_all", train_all)
    monkeypatch.setattr(laboratory, "_row", row)
    monkeypatch.setattr(laboratory, "read_result", lambda folder, config: row(config))
    return trained


def test_radii_go_up_until_two_on_end_have_collapsed_for_all_seeds(tmp_path, verdicts):
    setting = Setting("x", CONFIG, (0.1, 0.2, 0.4, 0.8, 1.6, 3.2))
    lines = list(explore([setting], 2, tmp_path, workers=1))
    assert setting.start not in setting.radii
    assert [rho for rho, seed in verdicts if seed == 0] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert len(lines) == 10
    assert lines[0].startswith("x ")


def test_from_the_middle_down_until_all_seeds_train_and_up_until_all_have_collapsed(tmp_path, verdicts):
    setting = Setting("x", CONFIG, (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8), start=0.3)
    list(explore([setting], 2, tmp_path, workers=1))
    # seed 0 fails from 0.2 on, seed 1 from 0.4: 0.15 is the first below at which both train
    assert [rho for rho, seed in verdicts if seed == 0] == [0.0, 0.3, 0.2, 0.15, 0.4, 0.6]


def test_no_radius_is_tried_where_plain_runs_do_not_train(tmp_path, verdicts, monkeypatch):
    monkeypatch.setattr(laboratory, "collapsed", lambda row: True)
    list(explore([Setting("x", CONFIG)], 2, tmp_path, workers=1))
    assert verdicts == [(0.0, 0), (0.0, 1)]


def test_no_radius_is_tried_where_one_plain_run_does_not_train(tmp_path, verdicts, monkeypatch):
    monkeypatch.setattr(
        laboratory, "_row", lambda config, runs=None: _row(test_auc=0.6, train_loss=0.69, seconds=1.0,
        status="dead" if config.seed else "ok") if (config.rho, config.seed) in verdicts else None,
    )  # fmt: skip
    list(explore([Setting("x", CONFIG)], 2, tmp_path, workers=1))
    assert verdicts == [(0.0, 0), (0.0, 1)]


def test_open_data_are_let_go_where_they_grow_large(monkeypatch):
    class Data:
        image_size = 10

        def __len__(self):
            return 5

    monkeypatch.setattr(laboratory, "_opened", {})
    monkeypatch.setattr(laboratory, "HELD_BYTES", 2000)
    laboratory.opened()["one"] = Data()
    assert set(laboratory.opened()) == {"one"}
    laboratory.opened()["two"] = Data()
    assert laboratory.opened() == {}


@pytest.mark.slow
def test_runs_are_kept_and_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(laboratory, "RECORD_SAMPLES", 32)
    monkeypatch.setattr(laboratory, "collapsed", lambda row: False)  # a tiny model is at chance from the start
    setting = Setting("x", CONFIG, (5.0,))
    first = list(explore([setting], 1, tmp_path, workers=2, device="cpu"))
    assert len(first) == 2
    frame = table([setting], 1, tmp_path)
    assert frame["rho"].tolist() == [0.0, 5.0]
    assert frame["setting"].tolist() == ["x", "x"]
    assert frame["steps"].tolist() == [24, 24]
    monkeypatch.setattr(processes, "ProcessPoolExecutor", None)  # nothing is left to train
    assert list(explore([setting], 1, tmp_path, workers=2)) == []
    config = setting.run_config(0.0, 0)
    assert read_result(run_folder(tmp_path, config), config)["cor_status"] in ("ok", "no_signal", "above_max_radius")
