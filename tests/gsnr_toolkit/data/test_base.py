import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from gsnr_toolkit.data.base import DataError, ForgeryDataset, probe_indices
from gsnr_toolkit.data.own import in_memory
from gsnr_toolkit.errors import ProbeWarning


def table(real, fake):
    rows = [(0, source) for source in real] + [(1, source) for source in fake]
    return pd.DataFrame(rows, columns=["label", "source"])


def drawn(records, n, seed=0):
    return records.iloc[probe_indices(records, n, seed)]


@pytest.fixture
def paired():
    """Each of 50 sources has two real and four forged items."""
    return table([f"s{i % 50}" for i in range(100)], [f"s{i % 50}" for i in range(200)])


@pytest.mark.parametrize("seed", range(5))
def test_a_draw_is_balanced_unique_and_of_one_item_per_source(paired, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        indices = probe_indices(paired, 40, seed)
    rows = paired.iloc[indices]
    assert len(set(indices)) == 40
    assert rows["label"].sum() == 20
    assert rows["source"].nunique() == 40


@pytest.mark.parametrize("batch", [2, 4, 10, 16])
def test_every_mini_batch_of_even_size_is_balanced(paired, batch):
    labels = drawn(paired, 40)["label"].to_numpy()
    full = labels[: 40 - 40 % batch].reshape(-1, batch)
    np.testing.assert_array_equal(full.sum(axis=1), batch // 2)


def test_the_order_within_pairs_is_not_fixed(paired):
    labels = drawn(paired, 40)["label"].to_numpy()
    assert 0 < labels[::2].sum() < 20


def test_the_seed_decides(paired):
    assert probe_indices(paired, 20, 3) == probe_indices(paired, 20, 3)
    assert probe_indices(paired, 20, 3) != probe_indices(paired, 20, 4)


def test_every_item_has_its_chance(paired):
    hits = np.bincount(np.concatenate([probe_indices(paired, 40, s) for s in range(400)]), minlength=300)
    # 20 of 100 real, 20 of 200 fake items a draw: binomial, five standard deviations
    np.testing.assert_allclose(hits[:100], 80, atol=5 * 8)
    np.testing.assert_allclose(hits[100:], 40, atol=5 * 6)


def test_positions_not_index_labels_are_returned(paired):
    shifted = paired.set_index(paired.index + 1000)
    assert probe_indices(shifted, 20) == probe_indices(paired, 20)


@pytest.mark.parametrize("seed", range(10))
def test_sources_with_both_classes_are_handed_over_where_needed(seed):
    # 10 shared sources must all serve the real class: only then there are 20 distinct ones
    records = table([f"b{i}" for i in range(10)], [f"b{i}" for i in range(10)] + [f"f{i}" for i in range(10)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = drawn(records, 20, seed)
    assert rows["source"].nunique() == 20
    assert set(rows["source"][rows["label"] == 0]) == {f"b{i}" for i in range(10)}


def test_reuse_of_sources_is_announced_and_even():
    records = table(["a", "a", "a", "b", "b", "b"], ["c", "c", "c", "d", "d", "d"])
    with pytest.warns(UserWarning, match="only 4 of the 8 probe items have a source .* The other 4 share"):
        rows = drawn(records, 8)
    assert rows["source"].value_counts().to_dict() == {"a": 2, "b": 2, "c": 2, "d": 2}


def test_a_short_class_makes_the_draw_smaller_but_balanced():
    records = table([f"r{i}" for i in range(20)], ["x", "y", "z"])
    with pytest.warns(ProbeWarning, match="16 probe items were requested, but there are 20 real and 3 fake ones"):
        rows = drawn(records, 16)
    assert rows["label"].tolist().count(1) == 3
    assert len(rows) == 6


def test_an_odd_number_has_one_item_without_partner(paired):
    assert drawn(paired, 7)["label"].sum() == 4


def test_one_class_only_is_an_error():
    with pytest.raises(DataError, match="none of the 2 items is fake"):
        probe_indices(table(["a", "b"], []), 2)


def test_a_probe_of_one_is_an_error(paired):
    with pytest.raises(ValueError, match=r"n >= 2 .* got n=1"):
        probe_indices(paired, 1)


def good_records():
    return pd.DataFrame(
        {"id": ["a", "b"], "label": [0, 1], "source": ["a", "b"], "method": ["real", "x"], "split": "train"}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.drop(columns="source"), r"but \['source'\] are missing"),
        (lambda r: r.iloc[:0], "expected images in 'mine', got an empty table"),
        (lambda r: r.assign(label=[0, 2]), r"to be 0 \(real\) or 1 \(fake\), got \[.*2.*\]"),
        (lambda r: r.assign(id="a"), "unique ids in 'mine', but 'a' occurs"),
    ],
)
def test_broken_records_are_refused_when_the_data_set_is_made(change, message):
    with pytest.raises(DataError, match=message):
        ForgeryDataset("mine", change(good_records()))


def test_a_data_set_without_a_reader_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="implement load_image"):
        ForgeryDataset("mine", good_records())[0]


def test_items_are_normalised_tensors_with_int_labels():
    pixels = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 255)])
    data = in_memory(pixels, [0, 1], image_size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    image, label = data[-1]
    torch.testing.assert_close(image, torch.full((3, 8, 8), 2.0))
    assert label == 1
    assert type(label) is int
    assert repr(data) == "ArrayDataset('in-memory': 1 real, 1 fake, 8 px)"


def test_every_item_belongs_to_a_domain():
    assert set(in_memory(np.zeros((2, 4, 4, 3), np.uint8), [0, 1], name="mine").records["domain"]) == {"mine"}
    given = table(["a"], ["b"]).assign(id=["x", "y"], method="m", split="test", domain=["one", "two"])
    assert ForgeryDataset("both", given).records["domain"].tolist() == ["one", "two"]
