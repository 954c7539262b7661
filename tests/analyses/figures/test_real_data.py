"""The scripts of the figures on a small copy of FaceForensics++'s own layout."""

import pandas as pd
import pytest

from analyses.collapse import laboratory
from analyses.figures import figure3
from tests.support.disk import METHODS, Disk


@pytest.fixture
def tree(tmp_path):
    """Sixteen pairs of videos in each split, a frame each."""
    splits = {
        split: [[f"{100 * place + 2 * k:03}", f"{100 * place + 2 * k + 1:03}"] for k in range(16)]
        for place, split in enumerate(("train", "val", "test"))
    }
    return Disk(tmp_path).faceforensics("FaceForensics++", methods=METHODS, frames=1, splits=splits)


@pytest.mark.slow
def test_a_figure_of_real_data_names_them(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(laboratory, "RECORD_SAMPLES", 32)
    monkeypatch.setattr(laboratory, "RECORD_EVERY", 12)
    where = ["--data-root", str(tree), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "data")]
    figure3.main(["--smoke", "--seeds", "1", "--workers", "1", "--device", "cpu", *where])
    table = pd.read_csv(tmp_path / "data" / "recordings.csv")
    assert set(table["family"]) == {"df", "nt"}
    assert set(table["caption"]) == {"FaceForensics++ Deepfakes (c23)", "FaceForensics++ NeuralTextures (c23)"}
    assert (table["num_samples"] == 32).all()
    assert (tmp_path / "figure3.pdf").exists()
