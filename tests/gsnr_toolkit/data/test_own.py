import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from gsnr_toolkit.data.base import DataError
from gsnr_toolkit.data.own import in_memory, wrap


class Counted(torch.utils.data.Dataset):
    """A data set of one's own that counts how often an item is read."""

    def __init__(self, inner, **attributes):
        self.inner = inner
        self.reads = 0
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        self.reads += 1
        return torch.full((3, 8, 8), float(index)), self.inner[index]


@pytest.mark.parametrize("attribute", ["labels", "targets"])
def test_labels_come_from_an_attribute_without_reading_images(attribute):
    inner = Counted([0, 1, 1], **{attribute: [0, 1, 1]})
    data = wrap(inner, "mine")
    assert data.labels.tolist() == [0, 1, 1]
    assert inner.reads == 1  # the first item, to check its form


def test_labels_come_from_the_items_where_there_is_no_attribute():
    data = wrap(TensorDataset(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])), "mine", split="val")
    assert data.labels.tolist() == [0, 1, 0, 1]
    assert set(data.records["split"]) == {"val"}
    assert data.records["source"].nunique() == 4


def test_images_are_used_as_they_come():
    image, label = wrap(Counted([0.0, 1.0]), "mine")[1]
    torch.testing.assert_close(image, torch.ones(3, 8, 8))
    assert label == 1
    assert type(label) is int


def test_sources_come_from_an_attribute():
    data = wrap(Counted([0, 1, 1], sources=["x", "y", "x"]), "mine")
    assert data.records["source"].tolist() == ["x", "y", "x"]


def test_a_forgery_data_set_is_returned_unchanged():
    data = in_memory(np.zeros((2, 8, 8, 3), np.uint8), [0, 1])
    assert wrap(data, "mine") is data


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (iter([1]), "to be a map-style data set with __getitem__ and __len__, got"),
        ([], "got an empty data set"),
        ([torch.zeros(3, 8, 8)], r"to be \(image, label\), got Tensor"),
        ([(np.zeros((8, 8, 3)), 0)], "to be tensors, got ndarray"),
        ([(torch.zeros(8, 8, 3), 0)], r"to have shape \(3, S, S\), got \(8, 8, 3\)"),
        ([(torch.zeros(3, 8, 8), 2)], r"to be 0 \(real\) or 1 \(fake\), got 2"),
        (Counted([0, 1], labels=[0]), "one label per item of mine, got 1 for 2"),
        (Counted([0, 1], sources=["a"]), r"one entry per item .*'labels': 2, 'sources': 1"),
    ],
)
def test_what_cannot_be_wrapped_says_why(inner, message):
    with pytest.raises(DataError, match=message):
        wrap(inner, "mine")


def test_in_memory_needs_a_label_per_image():
    with pytest.raises(DataError, match="one label per image, got 1 labels for 2 images"):
        in_memory(np.zeros((2, 8, 8, 3), np.uint8), [0])
