"""train -> eval -> predict on the layouts of the real data sets, in files of the same form."""

import pandas as pd
import pytest
from typer.testing import CliRunner

from corit import cli
from tests.support.disk import Disk

SPLITS = {
    split: [[f"{100 * place + 2 * k:03}", f"{100 * place + 2 * k + 1:03}"] for k in range(4)]
    for place, split in enumerate(("train", "val", "test"))
}


def run(*arguments):
    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.fixture(params=["folders of FaceForensics++", "list of DeepfakeBench"])
def root(request, tmp_path):
    disk = Disk(tmp_path / "data")
    if request.param.startswith("list"):
        disk.nt_list(splits=SPLITS)
        return disk.root
    return disk.faceforensics("FaceForensics++", splits=SPLITS)


@pytest.fixture(
    params=[
        ("tests.support.tiny_clip:tiny_clip", None),
        pytest.param(("clip-vit-l14", "random"), marks=pytest.mark.large),
    ]
)
def encoder(request):
    name, weights = request.param
    return ["--encoder", name, "--device", "cpu", *(["--set", f"weights={weights}"] if weights else [])]


def test_from_frames_on_disk_to_scores(root, encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(cli.CACHE_VARIABLE, str(tmp_path / "cache"))
    settings = ["--set", "views=1", "--set", "batch_size=4", "--set", "nms_radius=1", "--data-root", root]
    run("train", *encoder, *settings, "--data", "nt", "--steps", 3, "--out", "mine")
    detector = ["--detector", "mine/selected.safetensors", "--device", "cpu"]
    run("eval", *detector, "--data", "nt", "--data-root", root, "--draws", 20, "--out", "test")
    table = pd.read_csv("test/results.csv").set_index(["level", "measure"])
    assert table.loc[("video", "auc"), "fake"] == 8  # two directions of four pairs
    assert 0 <= table.loc[("video", "auc"), "value"] <= 1
    frames = sorted(root.rglob("NeuralTextures/c23/frames/200_201/*.png"))
    run("predict", *frames, *detector, "--out", "scores")
    assert len(pd.read_csv("scores/scores.csv")) == len(frames) == 3
    assert len(list((tmp_path / "scores").glob("*.heatmap.png"))) == 3
