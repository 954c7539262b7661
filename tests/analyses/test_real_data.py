"""The scripts of the figures on a small copy of FaceForensics++'s own layout."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analyses import figure3, laboratory

MANIPULATIONS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")


@pytest.fixture
def tree(tmp_path):
    """Sixteen pairs of videos in each split, a frame each."""
    root = tmp_path / "FaceForensics++"
    rng = np.random.default_rng(0)
    for place, split in enumerate(("train", "val", "test")):
        pairs = [[f"{100 * place + 2 * k:03}", f"{100 * place + 2 * k + 1:03}"] for k in range(16)]
        root.mkdir(exist_ok=True)
        (root / f"{split}.json").write_text(json.dumps(pairs))
        for a, b in (pair[::turn] for pair in pairs for turn in (1, -1)):
            folders = [f"original_sequences/youtube/c23/frames/{a}"]
            folders += [f"manipulated_sequences/{name}/c23/frames/{a}_{b}" for name in MANIPULATIONS]
            for folder in folders:
                (root / folder).mkdir(parents=True)
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(root / folder / "000.png")
    return root


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
