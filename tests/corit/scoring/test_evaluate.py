import numpy as np
import pandas as pd
import pytest
import torch

from corit.model.counterparts import SelfBlendedCounterparts
from corit.model.features import FeatureMaker
from corit.model.trained import Trained
from corit.scoring.evaluate import COLUMNS, evaluate_detector, markdown_table, wide_table
from corit.scoring.evaluate_many import evaluate_many, expand_names, read_perturbations
from corit.scoring.robustness import LEVELS, PERTURBATIONS, Perturbed, perturb
from gsnr_toolkit.data.base import DataError, ForgeryDataset
from gsnr_toolkit.data.own import wrap
from gsnr_toolkit.errors import ProbeError
from tests.support.tiny_clip import tiny_clip
from tests.support.towers import SIZE, make_detector


class Frames(ForgeryDataset):
    """Two real videos and two manipulations that share their folders' names, three frames each."""

    def __init__(self):
        rows = [
            {"label": label, "method": method, "source": "000", "split": "test", "video": f"{method}/{number}"}
            for label, method in ((0, "real"), (1, "df"), (1, "nt"))
            for number in ("000", "001")
            for _ in range(3)
        ]
        records = pd.DataFrame(rows)
        records["id"] = [str(i) for i in range(len(records))]
        super().__init__("frames", records, image_size=SIZE)

    def load_image(self, index):
        return np.random.default_rng(index).integers(0, 256, (24, 20, 3), dtype=np.uint8)


def trained(**training):
    return Trained(tiny_clip().eval(), training)


def corit():
    model = make_detector(num_regions=2)
    model.counterpart = SelfBlendedCounterparts()
    return Trained(model.eval(), {"data": "demo-df", "fakes": "sbi", "method": "corit", "selection": "selected"})


def test_scores_are_those_of_the_model_and_the_table_counts_videos():
    data, detector = Frames(), trained()
    found = evaluate_detector(detector, data, draws=50)
    with torch.no_grad():
        logits = detector.model(torch.stack([data[i][0] for i in range(len(data))]))
    np.testing.assert_allclose(found.scores["logit"], logits.double(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.scores["probability"], torch.sigmoid(logits.double()), rtol=1e-4)
    assert tuple(found.table.columns) == COLUMNS
    frame, video = (found.table[found.table["level"] == level] for level in ("frame", "video"))
    assert (frame[["real", "fake"]].drop_duplicates().values == [[6, 12]]).all()
    assert (video[["real", "fake"]].drop_duplicates().values == [[2, 4]]).all()
    means = found.scores.groupby("video")["probability"].mean()
    real, fake = means[means.index.str.startswith("real")], means[~means.index.str.startswith("real")]
    wins = np.mean([(f > r) + 0.5 * (f == r) for f in fake for r in real])
    assert video.set_index("measure")["value"]["auc"] == pytest.approx(wins)


def test_the_table_names_source_and_protocol():
    known = {"data": "frames", "fakes": "sbi", "selection": "last"}
    row = evaluate_detector(trained(**known), Frames(), draws=0).table.iloc[0]
    assert row["trained_on"] == "self-blended real images of frames"
    assert row["protocol"] == "the data trained on, forgeries never seen; split test; 3 frames a video"
    assert row["selection"] == "last"
    other = evaluate_detector(trained(data="ff", fakes="given"), Frames(), draws=0).table.iloc[0]
    assert other["trained_on"] == "real images and forgeries of ff"
    assert other["protocol"].startswith("other data than trained on")
    assert evaluate_detector(trained(), Frames(), draws=0).table.iloc[0]["protocol"].startswith("training data unknown")


def test_features_of_a_cache_give_the_same_table(tmp_path):
    detector, data = corit(), Frames()
    plain = evaluate_detector(detector, data, draws=0).table
    detector.model.requires_grad_(False)
    maker = FeatureMaker(detector.model, tmp_path)
    for _ in range(2):
        cached = evaluate_detector(detector, data, draws=0, maker=maker).table
        np.testing.assert_allclose(cached["value"], plain["value"], atol=1e-6)
    assert maker.found == maker.made == len(data)


def test_wide_and_markdown():
    table = evaluate_detector(trained(), Frames(), draws=20).table
    wide = wide_table(table)
    assert len(wide) == 1
    assert wide["auc"].str.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]").all()
    assert markdown_table(wide, {"data": "set", "real": "n"}).splitlines()[2] == "| frames | 2 |"


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_perturbations_change_images_more_and_more_and_always_alike(name):
    smooth = np.add.outer(np.arange(48), np.arange(40))[..., None] * np.array([1, 2, 0.5]) % 200
    image = (smooth + np.random.default_rng(0).normal(0, 3, smooth.shape)).clip(0, 255).astype(np.uint8)
    distances = []
    for level in LEVELS[name]:
        worse = perturb(image, name, level)
        assert worse.shape == image.shape
        assert worse.dtype == np.uint8
        assert (worse == perturb(image.copy(), name, level)).all()
        distances.append(np.abs(worse.astype(float) - image).mean())
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_noise_has_its_standard_deviation():
    grey = np.full((100, 100, 3), 128, np.uint8)
    assert (perturb(grey, "noise", 5).astype(float) - 128).std() == pytest.approx(5, rel=0.03)


def test_what_cannot_be_perturbed():
    with pytest.raises(ProbeError, match=r"expected a perturbation .* got 'jpg'; .* Did you mean 'jpeg'"):
        perturb(np.zeros((8, 8, 3), np.uint8), "jpg", 50)
    with pytest.raises(ProbeError, match=r"a level of jpeg from 1 to 100, got 0"):
        Perturbed(Frames(), "jpeg", 0)
    with pytest.raises(DataError, match=r"expected images as pixels for blur, but .* tensors"):
        Perturbed(wrap([(torch.zeros(3, 8, 8), 0), (torch.zeros(3, 8, 8), 1)], "mine"), "blur", 1)


def test_many_sets_and_robustness_rows_are_saved(tmp_path):
    table = evaluate_many(
        corit(), ["demo-df", "demo-nt"], {"size": 8}, perturbations=[("jpeg", 50.0)], draws=0, out=tmp_path
    )
    assert list(dict.fromkeys(zip(table["data"], table["perturbation"], strict=True))) == [
        ("demo-df", "none"), ("demo-df", "jpeg 50"), ("demo-nt", "none"), ("demo-nt", "jpeg 50"),
    ]  # fmt: skip
    saved = pd.read_csv(tmp_path / "results.csv")
    np.testing.assert_allclose(saved["value"], table["value"])
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert len(scores) == 4 * 8
    clean, worse = (scores[scores["perturbation"] == name]["logit"].to_numpy() for name in ("none", "jpeg 50"))
    assert not np.allclose(clean, worse)


def test_names_and_perturbations_as_text():
    assert len(expand_names("demo")) == 8
    assert len(read_perturbations("all")) == sum(map(len, LEVELS.values()))
    assert read_perturbations(None) == []
    with pytest.raises(ProbeError, match=r"expected a perturbation .* got 'blurr'; .* Did you mean 'blur'"):
        read_perturbations("blurr=1")
    with pytest.raises(ProbeError, match=r"expected blur=NUMBER, got 'blur=much'"):
        read_perturbations("blur=much")
    with pytest.raises(ProbeError, match="names of data sets"):
        expand_names("demo,,ff")
