import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from corit import cli
from gsnr_toolkit.data.demo.dataset import open_demo

RUN = CliRunner()
TINY = ["--encoder", "tests.support.tiny_clip:tiny_clip", "--device", "cpu"]
for setting in ("train_samples=24", "val_samples=16", "eval_samples=16", "views=1", "batch_size=8", "nms_radius=1"):
    TINY += ["--set", setting]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(cli.CACHE_VARIABLE, str(tmp_path / "cache"))
    for number in range(2):
        Image.fromarray(open_demo("df", split="test", size=2).load_image(number)).save(f"{number}.png")


def run(*arguments, code=0):
    done = RUN.invoke(cli.app, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def refused(*arguments, capsys):
    """What a user sees of an error: one sentence on stderr, exit code 2, no traceback."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped, warnings.catch_warnings():
        patch.setattr("sys.argv", ["corit", *map(str, arguments)])
        patch.setattr(warnings, "showwarning", warnings.showwarning)  # put back
        cli.main()
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.err


def test_predict_right_after_installation(tmp_path):
    output = run("predict", "0.png", "1.png", "--out", "scores")
    assert "demo detector: trained on drawn faces" in output
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {
        "scores.csv", "frames.csv", "0.png.heatmap.png", "1.png.heatmap.png",
    }  # fmt: skip
    assert pd.read_csv("scores/scores.csv")["probability"].between(0, 1).all()
    assert not (tmp_path / "cache").exists()


def test_brackets_in_names_are_shown(tmp_path):
    (tmp_path / "0.png").rename(tmp_path / "face[red].png")
    assert "face[red].png" in run("predict", "face[red].png")


def test_predict_as_json():
    done = RUN.invoke(cli.app, ["predict", "0.png", "--json", "--quiet"])
    found = json.loads(done.stdout)
    assert found["demo"] is True
    assert found["files"][0]["file"] == "0.png"
    assert found["files"][0]["heatmap"] is None
    assert 0 < found["files"][0]["probability"] < 1


def test_a_broken_image_is_told_and_changes_the_exit_code():
    with open("2.png", "wb") as file:
        file.write(b"nothing")
    output = run("predict", ".", code=cli.EXIT_UNSCORED)
    assert "not an image, despite its name" in output
    assert output.count("│ real ") + output.count("│ fake ") == 2


def test_train_then_predict_and_eval(tmp_path):
    output = run("train", *TINY, "--steps", 4, "--rho", "0.05", "--eval", "demo-nt", "--out", "mine")
    assert "validation AUC" in output
    assert (tmp_path / "cache").exists()
    detector = ["--detector", "mine/selected.safetensors"]
    output = run("predict", "0.png", *detector, "--out", "scores")
    assert "demo detector" not in output
    assert (tmp_path / "scores" / "0.png.heatmap.png").exists()
    output = run(
        "eval", *detector, "--data", "demo-fs", "--samples", 12, "--draws", 20, "--robustness", "jpeg=50", "-o", "test"
    )
    assert "mine/selected" in output
    assert "jpeg 50" in output
    assert "other data than trained on" in output
    table = pd.read_csv("test/results.csv")
    assert set(table["level"]) == {"frame", "video"}
    assert table.loc[table["measure"] == "auc", "low"].notna().all()
    # the same command reads the finished training
    assert "validation AUC" in run("train", *TINY, "--steps", 4, "--rho", "0.05", "--eval", "demo-nt", "--out", "mine")


def test_a_probe_has_no_heat_maps_and_says_so():
    run("train", *TINY, "--method", "probe", "--steps", 2, "--out", "mine", "--no-cache")
    output = run("predict", "0.png", "-D", "mine/last.safetensors", "--out", "scores")
    assert "no heat maps: this detector has no regions" in output


def test_ablate():
    output = run("ablate", *TINY, "--set", "steps=2", "--vary", "num_regions=0,2", "--seeds", 2, "--out", "study")
    assert "num_regions=2" in output
    assert "mean [smallest, largest] over 2 seeds" in output
    assert pd.read_csv("study/ablation.csv")["seed"].nunique() == 2


def test_settings_are_listed():
    output = run("train", "--list")
    assert "SAM's radius; 0 for AdamW alone, 'auto' for one that needs no number. Default: 0.0" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere.png"], "error: expected an image, a video or a folder, but nowhere.png does not exist;"),
        (
            ["predict", "0.png", "-D", "0.png"],
            "to be a detector written by corit train or save_detector, but it cannot be read",
        ),
        (["predict", "0.png", "--crop", "eyes"], "expected --crop none or face, got 'eyes'"),
        (["predict", "0.png", "--face-model", "x.onnx"], "expected --crop face with --face-model"),
        (["predict", "0.png", "--encoder-weights", "random"], "error: expected the encoder that the head in"),
        (["train"], "expected a folder for the detector, got none; add --out DIR"),
        (["train", "--out", "a", "--rho", "much"], "expected rho to be a number from 0, got 'much'"),
        (["train", "--out", "a", "--set", "rho"], "expected --set FIELD=VALUE, got 'rho'"),
        (["train", "--out", "a", "--rho", "0", "--set", "rho=1"], "expected rho once"),
        (["train", "--out", "a", "--data", "demo-d"], "expected a known data set, got 'demo-d'; choose one of"),
        (["train", "--out", "a", "--encoder", "clip-dmo"], "expected a known model, got 'clip-dmo'; choose one of"),
        (["train", "--out", "a", "--cache", "b", "--no-cache"], "expected --cache or --no-cache, got both (b)"),
        (["eval", "--level", "image"], "expected --level video or frame, got 'image'"),
        (["eval", "--robustness", "rain"], "noise, got 'rain'; choose one"),
        (["eval", "--data", "demo-df", "--frames-per-video", "4"], "an option of 'demo-df' to be one of strength, got"),
        (["ablate", "--out", "a", "--vary", "rho"], "expected --vary parts alone, or --vary FIELD=VALUE"),
        (["ablate"], "expected a folder for the trainings, got none; add --out DIR"),
    ],
)
def test_wrong_ways_end_in_a_sentence(arguments, message, capsys):
    assert message in refused(*arguments, capsys=capsys)


def test_without_opencv(capsys, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("corit.sbi needs OpenCV", name="cv2")

    monkeypatch.setattr(cli, "_load", missing)
    assert "pip install 'gsnr-toolkit[corit]'" in refused("predict", "0.png", capsys=capsys)


def test_no_numpy_leaks_into_json():
    assert np.isfinite(
        json.loads(RUN.invoke(cli.app, ["predict", "1.png", "--json"]).stdout)["files"][0]["probability"]
    )


def test_proxy_check(tmp_path, capsys):
    output = run(
        "proxy-check", "--encoder", "tests.support.tiny_clip:tiny_clip", "--data", "demo-df", "--samples", 16,
        "--steps", "0,1", "--pool", "mean", "--layerwise", "readout", "--device", "cpu", "--out", "proxy", "-q",
    )  # fmt: skip
    assert "rank correlation of proxy and true GSNR" in output
    table = pd.read_csv("proxy/proxy_gsnr.csv")
    assert table["step"].unique().tolist() == [0, 1]
    assert json.loads((tmp_path / "proxy" / "provenance.json").read_text())["pool"] == "mean"
    assert "expected pool to be one of" in refused("proxy-check", "--pool", "regions", "-q", capsys=capsys)


@pytest.mark.parametrize("command", [["predict", "0.png"], ["eval"], ["proxy-check"], ["train"], ["ablate"]])
@pytest.mark.parametrize("out", ["file", "file/below", "/proc/none"])
def test_an_impossible_folder_is_refused_before_any_work(command, out, capsys, monkeypatch, tmp_path):
    def work(*_, **__):
        pytest.fail("the work began")

    monkeypatch.setattr(cli, "_load", work)
    monkeypatch.setattr("corit.proxy.run.run_proxy_check", work)
    (tmp_path / "file").write_text("x")
    assert re.search("choose another (place|folder)", refused(*command, "--out", out, capsys=capsys))
