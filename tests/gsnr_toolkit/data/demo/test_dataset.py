from __future__ import annotations

import numpy as np
import pytest
import torch

from gsnr_toolkit.data.base import ForgeryDataset, probe_indices
from gsnr_toolkit.data.demo.dataset import DEFAULT_SIZES, open_demo
from gsnr_toolkit.data.demo.pairs import demo_pairs
from gsnr_toolkit.data.demo.splits import SPLITS, identities
from gsnr_toolkit.data.transforms import image_to_tensor


def test_items_are_the_pairs_in_order() -> None:
    data = open_demo("nt", split="val", size=6)
    real, fake, _ = demo_pairs("nt", identities("val", 3))
    assert isinstance(data, ForgeryDataset)
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    for k in range(3):
        np.testing.assert_array_equal(data.load_image(2 * k), real[k])
        np.testing.assert_array_equal(data.load_image(2 * k + 1), fake[k])
    image, label = data[3]
    torch.testing.assert_close(image, image_to_tensor(fake[1], 64))
    assert label == 1


def test_an_item_does_not_depend_on_the_size_of_the_set_or_the_order_of_reading() -> None:
    few, many = open_demo("f2f", size=10), open_demo("f2f", size=300)
    last = many[299]
    torch.testing.assert_close(few[9][0], many[9][0])
    torch.testing.assert_close(open_demo("f2f", size=300)[299][0], last[0])


def test_splits_share_no_person() -> None:
    sources = [set(open_demo("df", split=split).records["source"]) for split in DEFAULT_SIZES]
    assert not set.intersection(*sources)
    assert [len(each) for each in sources] == [size // 2 for size in DEFAULT_SIZES.values()]
    everybody = np.concatenate([identities(split, 1000) for split in SPLITS])
    assert len(np.unique(everybody)) == 1000 * len(SPLITS)


def test_real_and_forged_images_show_the_same_people() -> None:
    records = open_demo("fs", size=40).records
    real, fake = (set(records.source[records.label == label]) for label in (0, 1))
    assert real == fake
    assert set(records.method) == {"real", "fs"}
    assert records["id"].is_unique


@pytest.mark.parametrize("family", ["cdf", "dfdc", "gan", "diff"])
def test_what_is_to_be_tested_on_shows_nobody_who_was_trained_on(family: str) -> None:
    trained = open_demo("df", split="train").records["source"]
    tested = open_demo(family, split="test", size=8)
    assert not set(trained) & set(tested.records["source"])
    pair = tested.pair(5)
    np.testing.assert_array_equal(pair.real, tested.load_image(4))
    np.testing.assert_array_equal(pair.fake, tested.load_image(5))
    assert set(tested.records["method"]) == {"real", family}


def test_other_worlds_hold_other_people_in_the_same_split() -> None:
    home, stage, telephone = (set(open_demo(family, size=40).records["source"]) for family in ("df", "cdf", "dfdc"))
    assert not home & stage
    assert not stage & telephone
    assert not home & telephone


def test_a_probe_finds_one_image_per_person() -> None:
    records = open_demo("nt", size=400).records
    chosen = records.iloc[probe_indices(records, 200, seed=1)]
    assert chosen["source"].is_unique
    assert chosen["label"].sum() == 100


def test_normalisation_and_size_follow_the_model() -> None:
    data = open_demo("nt", size=2, image_size=96, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    image, _ = data[0]
    assert image.shape == (3, 96, 96)
    np.testing.assert_allclose((image.numpy() + 1) * 127.5, data.load_image(0).transpose(2, 0, 1), atol=1e-3)


def test_the_pair_of_an_item_carries_mask_landmarks_and_attributes() -> None:
    data = open_demo("df", split="test", size=8, strength=0.7)
    pair = data.pair(5)
    np.testing.assert_array_equal(pair.real, data.load_image(4))
    np.testing.assert_array_equal(pair.fake, data.load_image(5))
    assert pair.landmarks.shape == (81, 2)
    assert {"skin", "hair_color", "expression", "grain"} <= set(pair.attributes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "deepfake"}, "one of df, fs, f2f, nt, .*got 'deepfake'"),
        ({"family": "nt", "split": "dev"}, "one of train, val, test, got 'dev'"),
        ({"family": "nt", "split": "pretrain"}, "one of train, val, test, got 'pretrain'"),
        ({"family": "nt", "size": 1}, "at least 2, .* got 1"),
    ],
)
def test_errors_name_the_choice(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_demo(**options)
