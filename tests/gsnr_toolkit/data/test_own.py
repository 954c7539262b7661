import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset

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


class Sized(Counted):
    """The second of four images has another size."""

    def __init__(self):
        super().__init__([0, 0, 0, 1], labels=[0, 0, 0, 1])

    def __getitem__(self, index):
        side = 9 if index == 1 else 8
        return torch.zeros(3, side, side), self.inner[index]


@pytest.mark.parametrize("attribute", ["labels", "targets"])
def test_labels_come_from_an_attribute_without_reading_images(attribute):
    inner = Counted([0, 1, 1], **{attribute: [0, 1, 1]})
    data = wrap(inner, "mine")
    assert data.labels.tolist() == [0, 1, 1]
    assert inner.reads <= 5  # the first for its form, and the ends of both classes


def test_few_items_are_read_to_compare_their_labels():
    labels = [0] * 900 + [1] * 100
    inner = Counted(labels, targets=torch.tensor(labels))
    assert wrap(inner, "mine").labels.tolist() == labels
    assert inner.reads <= 11


def test_items_that_contradict_their_attribute_are_named():
    inner = Counted([1, 0, 1, 1], targets=[0, 0, 1, 1])
    with pytest.raises(DataError, match=r"item 0 of mine to have the label 0 that was stated .* gives 1; make its"):
        wrap(inner, "mine")
    data = wrap(Counted([0, 1, 0, 1, 1], targets=[0, 0, 0, 1, 1]), "mine")  # not one of those that are looked at
    with pytest.raises(DataError, match="expected item 1 of mine to have the label 0"):
        data[1]


CLASSES = [
    {"class_to_idx": {"fake": 0, "real": 1}},
    {"classes": ["Deepfakes", "Original"]},
    {"classes": ("spoof", "live"), "targets": [0, 0, 1]},
    {"class_to_idx": {"FaceSwap": 0, "original": 1}},
    {"idx_to_class": {0: "FF-fake", 1: "FF-real"}},
    {"class_to_idx": {"fake": 0, "real": 1}, "target_transform": lambda label: label},
]


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(
    "around", [lambda d: d, lambda d: Subset(d, [0, 1, 2]), lambda d: ConcatDataset([d, Counted([0, 1])])]
)
def test_classes_named_the_other_way_round_are_refused(classes, around):
    with pytest.raises(
        DataError, match=r"expected the label 0 for real and 1 for fake images in mine, .* image-folder:"
    ):
        wrap(around(Counted([0, 0, 1], **classes)), "mine")


@pytest.mark.parametrize(
    "attributes",
    [
        {"class_to_idx": {"real": 0, "fake": 1}},
        {"classes": ["cats", "dogs"]},
        {"class_to_idx": {"fake": 0, "real": 1}, "target_transform": lambda index: 1 - index},
        {"classes": 7},
        {"classes": ["not_fake", "fake"]},
    ],
)
@pytest.mark.parametrize("around", [lambda d: d, lambda d: Subset(d, [0, 1, 2]), lambda d: ConcatDataset([d, d])])
def test_labels_that_the_names_do_not_contradict(attributes, around):
    assert wrap(around(Counted([0, 0, 1], **attributes)), "mine").labels.tolist()[:3] == [0, 0, 1]


def test_an_image_folder_of_torchvision(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    transforms = pytest.importorskip("torchvision.transforms")
    for name, value in (("fake", 200), ("real", 20)):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (8, 8), (value, value, value)).save(tmp_path / name / f"{number}.png")
    inner = datasets.ImageFolder(tmp_path, transforms.ToTensor())
    with pytest.raises(DataError, match=r"ImageFolder numbers classes by the alphabet: fake 0, real 1"):
        wrap(inner, "mine")
    data = wrap(datasets.ImageFolder(tmp_path, transforms.ToTensor(), target_transform=lambda i: 1 - i), "mine")
    assert data.labels.tolist() == [1, 1, 0, 0]
    assert [label for image, label in (data[i] for i in range(4)) if image.mean() > 0.5] == [1, 1]


def test_sources_are_found_through_subsets_and_concatenations():
    inner = Counted([0, 1, 1], sources=["x", "y", "x"])
    data = wrap(ConcatDataset([Subset(inner, [0, 2]), Counted([0, 1])]), "mine")
    assert data.records["source"].tolist() == ["x", "x", "item 2", "item 3"]


def test_images_of_several_shapes_are_named_when_they_are_met():
    data = wrap(Sized(), "mine")
    with pytest.raises(DataError, match="images of mine to have one size, 8 as the first, but item 1 has 9"):
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
        ([(torch.zeros(3, 8, 8), 2)], r"to be 0 \(real\) or 1 \(fake\), one per image, got 2"),
        (Counted([0, 1], labels=[0]), "one entry per item of mine in its attribute labels, got 1 for 2"),
        (Counted([0, 1], sources=["a"]), "one entry per item of mine in its attribute sources, got 1 for 2"),
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
