"""The detector that ships: its file, its card, and the script that made both."""

import re

import pytest

from corit.model.trained import DEMO_FILE, load_trained
from corit.scoring.evaluate import evaluate_detector
from corit.training import train_demo
from corit.training.config import DetectorTraining
from corit.training.data import open_evaluation

CARD = DEMO_FILE.with_suffix(".md")


def test_the_file_was_made_by_the_script_as_it_is():
    trained = load_trained()
    defaults = DetectorTraining().to_dict()  # of settings that are younger than the file
    written = {name: trained.training.get(name, default) for name, default in defaults.items()}
    assert written == train_demo.DEMO_TRAINING.to_dict()
    assert trained.training["selection"] == "selected"
    assert trained.training["fakes"] == "given"
    assert DEMO_FILE.stat().st_size < 100_000


def test_the_card_says_what_was_measured():
    text = CARD.read_text(encoding="utf8")
    rows = re.findall(r"^\| `(demo-\w+)` \| (\d+) \| (\d\.\d+) \[(\d\.\d+), (\d\.\d+)\]", text, re.MULTILINE)
    assert [row[0] for row in rows] == list(train_demo.DEMO_DATA)
    for _, count, value, low, high in rows:
        assert int(count) == train_demo.DEMO_TRAINING.eval_samples
        assert float(low) <= float(value) <= float(high)
    assert "A demo" in text


def test_a_part_of_the_test_split_scores_like_the_card():
    """A fifth of the images, so a wider interval: one that must hold the card's number."""
    trained = load_trained()
    value = float(re.search(r"`demo-nt` \| \d+ \| (\d\.\d+)", CARD.read_text(encoding="utf8"))[1])
    data = open_evaluation(DetectorTraining(data="demo-nt", eval_samples=200), "demo-nt", trained.spec)
    table = evaluate_detector(trained, data, draws=200).table
    row = table[(table["measure"] == "auc") & (table["level"] == "video")].iloc[0]
    wider = 0.5 * (row["high"] - row["low"])
    assert row["low"] - wider <= value <= row["high"] + wider
    assert row["low"] > 0.8  # it sees the traces that it was trained on


def test_the_script_makes_a_detector_and_a_card(tmp_path, monkeypatch):
    from tests.support.corit_config import CONFIG

    monkeypatch.setattr(train_demo, "DEMO_TRAINING", CONFIG)
    monkeypatch.setattr(train_demo, "DEMO_DATA", ("demo-df", "demo-nt"))
    train_demo.main(["--out", str(tmp_path / "out")])
    made = load_trained(tmp_path / "out" / "corit-demo.safetensors")
    assert made.training["val_auc"] == pytest.approx(made.training["val_auc"])
    assert made.model.head.weight.isfinite().all()
    text = (tmp_path / "out" / "corit-demo.md").read_text(encoding="utf8")
    assert "| `demo-nt` | 16 |" in text
    assert "minutes on 1 CPU thread" in text
