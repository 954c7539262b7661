import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from gsnr_toolkit.data.base import DataError
from gsnr_toolkit.data.own import in_memory, wrap
from gsnr_toolkit.errors import ProbeWarning


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
    assert inner.reads <= 1 + 3  # for the form of the first, and to compare some labels


def test_few_items_are_read_to_compare_their_labels():
    labels = [0] * 900 + [1] * 100
    inner = Counted(labels, targets=torch.tensor(labels))
    assert wrap(inner, "mine").labels.tolist() == labels
    assert inner.reads <= 11


def test_labels_of_the_items_count_where_the_attribute_says_otherwise():
    inner = Counted([1 - label for label in [0, 0, 1, 1]], targets=[0, 0, 1, 1])  # a target_transform
    assert wrap(inner, "mine").labels.tolist() == [1, 1, 0, 0]


CLASSES = [
    {"class_to_idx": {"fake": 0, "real": 1}},
    {"classes": ["Deepfakes", "Original"]},
    {"classes": ("spoof", "live"), "targets": [0, 0, 1]},
]


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("around", [lambda d: d, lambda d: Subset(d, [0, 1, 2]), lambda d: ConcatDataset([d, d])])
def test_classes_named_the_other_way_round_are_swapped_and_told(classes, around):
    inner = Counted([0, 0, 1], **classes)
    with pytest.warns(ProbeWarning, match="the classes of mine say that label 0 is fake and 1 is real: .* swapped"):
        data = wrap(around(inner), "mine")
    assert data.labels.tolist()[:3] == [1, 1, 0]
    assert [data[index][1] for index in range(3)] == [1, 1, 0]


@pytest.mark.parametrize(
    "attributes",
    [
        {"class_to_idx": {"real": 0, "fake": 1}},
        {"classes": ["cats", "dogs"]},
        {"class_to_idx": {"fake": 0, "real": 1}, "target_transform": lambda label: label},
        {"classes": 7},
    ],
)
def test_labels_stay_where_names_do_not_say_otherwise(attributes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert wrap(Counted([0, 0, 1], **attributes), "mine").labels.tolist() == [0, 0, 1]
        assert wrap(Subset(Counted([0, 0, 1], **attributes), [0, 2]), "mine").labels.tolist() == [0, 1]


def test_an_image_folder_of_torchvision(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    transforms = pytest.importorskip("torchvision.transforms")
    for name, value in (("fake", 200), ("real", 20)):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (8, 8), (value, value, value)).save(tmp_path / name / f"{number}.png")
    inner = datasets.ImageFolder(tmp_path, transforms.ToTensor())
    with pytest.warns(ProbeWarning, match="swapped to 0 real, 1 fake"):
        data = wrap(inner, "mine")
    assert [label for image, label in (data[i] for i in range(4)) if image.mean() > 0.5] == [1, 1]


def test_images_of_several_shapes_are_named_when_they_are_met():
    data = wrap([(torch.zeros(3, 8, 8), 0), (torch.zeros(3, 9, 9), 1)], "mine")
    with pytest.raises(DataError, match=r"images of mine to have one shape, \(3, 8, 8\), got \(3, 9, 9\) for item 1"):
        data[1]


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


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), [0, 1], r"uint8 arrays \(H, W, 3\), got shape \(3, 8, 8\); .*transpose"),
        (np.zeros((2, 8, 8, 1), np.uint8), [0, 1], r"got shape \(8, 8, 1\)"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((3, 8, 8), np.uint8)], [0, 1], r"got shape \(3, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8), [0, 1], r"got a tensor \(2, 3, 8, 8\); .*permute"),
        (np.zeros((2, 8, 8, 3), np.uint8), np.array([[0], [1]]), r"labels of shape \(N,\), got \(2, 1\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), [0, 2], r"to be 0 \(real\) or 1 \(fake\), got"),
        (np.zeros((2, 8, 8, 3), np.uint8), [0, float("nan")], r"to be 0 \(real\) or 1 \(fake\), got"),
    ],
)
def test_images_and_labels_in_memory_of_another_form(images, labels, message):
    with pytest.raises(DataError, match=message):
        in_memory(images, labels)


def test_labels_in_memory_may_be_a_tensor():
    assert in_memory(np.zeros((2, 8, 8, 3), np.uint8), torch.tensor([1, 0])).labels.tolist() == [1, 0]
