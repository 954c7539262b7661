import shlex
import sys

import matplotlib.image
import pytest

from gsnr_toolkit.commands import sweep as sweep_cli
from gsnr_toolkit.sweeps import sweep as sweeping
from gsnr_toolkit.sweeps.table import read_table

FAKE = "tests.support.fake_training:run_training"
TINY = (
    "--model tests.support.tiny_detector:tiny_model --data demo-df --steps 3 --set train_samples=32 "
    "--set eval_samples=24 --lr 3e-3"
)


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Run the command in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(command):
        monkeypatch.setattr(sys, "argv", ["gsnr-sweep", *shlex.split(command)])
        with pytest.raises(SystemExit) as exited:
            sweep_cli.main()
        out, err = capfd.readouterr()
        return exited.value.code or 0, out, err

    return call


@pytest.fixture
def fake(monkeypatch):
    """Runs take no time and collapse from rho = 0.05 on."""
    grid = sweeping.run_grid
    monkeypatch.setattr(sweeping, "run_grid", lambda *args, **kw: grid(*args, **{**kw, "function": FAKE}))


def test_a_small_sweep_end_to_end(run, tmp_path):
    """Real training in processes of their own, then status, figure, and the same command once more."""
    command = f"{TINY} --rho 0,0.05 -b 8 --device cpu --workers 1 --out out"
    code, out, err = run(command)
    assert code == 0, err
    assert "demo-df, rho 0.05, seed 0: AUC" in err
    assert "gsnr-sweep plot out" in err
    assert "empirical collapse radius" in out
    table = read_table(tmp_path / "out")
    assert table["rho"].tolist() == [0.0, 0.05]
    assert table["num_test"].tolist() == [24, 24]
    assert table["test_auc"].between(0, 1).all()
    assert (tmp_path / "out" / "runs" / table["key"][0] / "log.csv").exists()
    code, out, err = run("plot out")
    assert code == 0, err
    assert out.split() == ["out/auc_radius.png", "out/auc_radius.pdf"]
    assert matplotlib.image.imread(tmp_path / "out" / "auc_radius.png").std() > 0.01
    code, out, _ = run("status out")
    assert (code, out.splitlines()[0]) == (0, "2 runs: 2 done")
    code, _, err = run(command)
    assert code == 0
    assert "AUC" not in err, "nothing is trained a second time"
    code, _, err = run(command.replace("--steps 3", "--steps 4"))
    assert code == 2
    assert "only there: steps 3; only here: steps 4" in err


@pytest.mark.usefixtures("fake")
def test_failures_are_told_and_the_rest_is_kept(run, tmp_path):
    code, out, err = run("--rho 0,0.05,0.5 --device cpu --out out")
    assert code == 1
    assert "1 of 3 runs failed:" in err
    assert "demo-nt, rho 0.5, seed 0: ValueError: no luck" in err
    assert "run the same command again to retry them" in err
    assert "0.05" in out
    code, out, err = run("status out")
    assert out.splitlines()[0] == "3 runs: 2 done, 1 failed"
    assert "no luck" in err
    code, out, err = run("--rho 0,0.05,0.5 --seed 0 --data demo-nt,demo-df --device cpu --out out --dry-run")
    assert code == 0, err
    assert "adds to the sweep in out: data demo-df" in out
    assert "demo-nt, rho 0.5, seed 0: failed" in out
    assert "demo-df, rho 0, seed 0: new" in out
    assert "6 runs, 4 to do" in out
    assert len(read_table(tmp_path / "out")) == 3, "a dry run changes nothing"


@pytest.mark.usefixtures("fake")
def test_a_file_and_options_before_it(run, tmp_path):
    (tmp_path / "grid.toml").write_text(
        '[base]\nsteps = 20\ndata = "demo-fs"\n[axes]\nrho = [0, 0.1]\nlr = [1e-3, 1e-4]\n'
    )
    code, out, _ = run("-c grid.toml --lr 0.01 --data demo-nt,demo-df --seeds 2 --out out --dry-run")
    assert code == 0
    runs = [line.partition("  ")[2] for line in out.splitlines()[:-1]]
    wanted = [f"{data}, rho {rho}, seed {seed}: new" for seed in (0, 1) for rho in (0, 0.1) for data in ("nt", "df")]
    assert runs == [f"demo-{line}" for line in wanted]
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("fake")
def test_options_become_settings(run, tmp_path):
    command = (
        "--data demo-nt --rho 0,0.05 --tuning head,last-2 --strength 2 --label-noise 0.1 --record-every 50 --quiet "
        "--eval demo-cdf,demo-gan --set optimizer=sgd --set momentum=0.5 --device cpu --out out"
    )
    code, out, err = run(command)
    assert (code, err) == (0, "")
    assert "last-2" in out
    table = read_table(tmp_path / "out")
    assert table["tuning"].tolist() == ["head", "last-2"] * 2
    assert table["rho"].tolist() == [0, 0, 0.05, 0.05]
    for name, value in {"strength": 2, "label_noise": 0.1, "record_every": 50, "optimizer": "sgd", "momentum": 0.5,
                        "eval_data": "demo-cdf,demo-gan", "steps": 300}.items():  # fmt: skip
        assert set(table[name]) == {value}, name


@pytest.mark.usefixtures("fake")
def test_ctrl_c_says_how_to_go_on(run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeping, "run_grid", interrupted)
    code, _, err = run("--out out")
    assert code == 130
    assert "interrupted: finished runs are in out; run the same command again to resume" in err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--rho 0", "expected a folder for the sweep, got none; add --out DIR"),
        ("--rho 0,,1 --out out", "expected --rho to be values separated by commas, got '0,,1'"),
        ("--rho small --out out", "expected rho to be a number from 0, got 'small'"),
        ("--data demo-tn --out out", "Did you mean 'demo-nt'"),
        ("--tuning norm --out out", "Did you mean 'norms'"),
        ("--seeds 2 --seed 0,1 --out out", "expected the seeds once, got it as --seeds and as --seed"),
        ("--seeds 0 --out out", "expected --seeds to be 1 or more, got 0"),
        ("--set stpes=1 --out out", "Did you mean 'steps'?"),
        ("--set steps --out out", "expected --set FIELD=VALUE, got 'steps'"),
        ("--steps 1 --set steps=2 --out out", "expected steps once, got it as an option and as --set steps=2"),
        ("--set eval_data=a,b --out out", "got eval_data, whose value is itself a list; use --eval"),
        ("--workers 0 --out out", "expected workers to be 1 or more, got 0"),
        ("--config none.toml --out out", "none.toml cannot be read"),
        ("--config bad.toml --out out", "bad.toml: expected steps to be a whole number from 1, got 0"),
        ("--rho 0 plot out", "expected no options before 'plot', got rho; remove them"),
        ("plot out", "expected a table at out/sweep.csv"),
        ("status out", "to hold a sweep, but its sweep.json cannot be read"),
    ],
)
def test_errors_of_use_are_one_message(run, tmp_path, command, message):
    (tmp_path / "bad.toml").write_text("[base]\nsteps = 0")
    code, out, err = run(command)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in out + err
    assert not (tmp_path / "out").exists()


def test_every_setting_is_listed(run):
    code, out, _ = run("--list")
    assert code == 0
    assert "label_noise" in out
    assert "Share of training labels that are flipped. Default: 0.0" in out
