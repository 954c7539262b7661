"""The shipped model is semantic: it names attributes, and hardly sees a forged mouth. Fixed seeds, known errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from gsnr_toolkit.models.demo_training.clip import WEIGHTS_DIR, WEIGHTS_PATH, build_demo_clip, load_demo_clip
from gsnr_toolkit.models.demo_training.evaluate import Auc, auc, logistic_probe, probe_forgery, zero_shot_table


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return load_demo_clip()


@pytest.fixture(scope="module")
def probes(model: torch.nn.Module) -> dict[str, Auc]:
    return {family: probe_forgery(model, family, train=600, test=800) for family in ("df", "nt")}


@pytest.fixture(scope="module")
def attributes(model: torch.nn.Module) -> pd.DataFrame:
    return zero_shot_table(model, count=500).set_index("attribute")


LEARNED = ["skin", "hair_color", "hair_style", "eyes", "glasses", "clothes", "background"]


@pytest.mark.parametrize("name", LEARNED)
def test_attributes_are_recognised_without_training(attributes: pd.DataFrame, name: str) -> None:
    # Beard, expression, pose and light stay near chance: see the card.
    row = attributes.loc[name]
    assert row.low > 1.5 * row.chance, row


def test_photographic_attributes_are_recognised_somewhat(attributes: pd.DataFrame) -> None:
    photographic = attributes[attributes.kind == "photographic"]
    assert (photographic.low > photographic.chance).sum() >= 2, photographic


def test_an_untrained_model_recognises_nothing() -> None:
    table = zero_shot_table(build_demo_clip(seed=1).eval(), count=300)
    assert (table.accuracy / table.chance).median() < 1.3


@pytest.mark.slow
def test_frozen_features_see_a_swapped_identity_far_better_than_a_forged_mouth(probes: dict[str, Auc]) -> None:
    assert probes["nt"].high < probes["df"].low, probes
    assert probes["nt"].value < 0.65


def test_a_swapped_identity_is_seen_but_not_solved(probes: dict[str, Auc]) -> None:
    assert 0.65 <= probes["df"].value <= 0.95, probes
    assert probes["df"].low > 0.6


def test_the_files_are_small_and_complete() -> None:
    assert WEIGHTS_PATH.stat().st_size < 6e6
    card = (WEIGHTS_DIR / "clip-demo.md").read_text()
    for word in ("python -m gsnr_toolkit.models.demo_training.pretrain", "--seed", "minutes", "demo-nt", "expression"):
        assert word in card


def test_missing_weights_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"absent\.safetensors, but there is no such file; run `python -m gsnr_toolkit"
    ):
        load_demo_clip(tmp_path / "absent.safetensors")


def test_auc_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=300), rng.normal(0.7, size=200)
    result = auc(real, fake)
    truth = np.r_[np.zeros(300), np.ones(200)]
    np.testing.assert_allclose(result.value, roc_auc_score(truth, np.r_[real, fake]))
    covered = []
    for _ in range(300):
        draw = auc(rng.normal(size=80), rng.normal(0.7, size=80))
        covered.append(draw.low < 0.6897 < draw.high)  # Phi(0.7 / sqrt 2)
    assert 0.91 < np.mean(covered) < 0.985


def test_the_probe_is_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, 5)) * [1, 2, 3, 4, 5] + 1
    labels = (inputs @ [1, -0.5, 0.2, 0, 0] + rng.logistic(size=400) > 0.5).astype(int)
    weights, mean, std = logistic_probe(torch.tensor(inputs).float(), torch.tensor(labels), penalty=1e-2)
    scaled = (inputs - mean.numpy()) / std.numpy()
    peer = LogisticRegression(C=1 / (2 * 400 * 1e-2), tol=1e-8).fit(scaled, labels)
    np.testing.assert_allclose(weights[:-1].numpy(), peer.coef_[0], atol=2e-3)
    np.testing.assert_allclose(float(weights[-1]), peer.intercept_[0], atol=2e-3)
