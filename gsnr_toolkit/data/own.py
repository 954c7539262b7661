"""The user's own data as a :class:`ForgeryDataset`: arrays in memory, or any map-style torch data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor
from torch.utils.data import Dataset

from gsnr_toolkit.data.base import FAKE, ForgeryDataset
from gsnr_toolkit.data.checks import DataError
from gsnr_toolkit.data.stated import as_label, stated_labels, stated_sources, wrong_way_round

__all__ = ["ArrayDataset", "WrappedDataset", "in_memory", "wrap"]


def make_records(
    labels: Sequence[int],
    sources: Sequence[Any] | None,
    method: str,
    split: str,
    ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Build the table of a data set from its labels.

    Args:
        labels: 0 (real) or 1 (fake) per item.
        sources: The unit of independence of each item; by default every item has its own source.
        method: The name of the forgeries.
        split: The name of the split.
        ids: Unique names; running numbers by default.

    Returns:
        A table with the columns that :attr:`ForgeryDataset.records` needs.

    Raises:
        DataError: If the numbers of labels, sources and ids differ.

    >>> make_records([0, 1], None, "swap", "train").method.tolist()
    ['real', 'swap']
    """
    given = {"labels": labels, "sources": sources, "ids": ids}
    lengths = {key: len(values) for key, values in given.items() if values is not None}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"expected one entry per item in each of {', '.join(lengths)}, got {lengths}; make them equally long"
        )
    names = [str(name) for name in (ids if ids is not None else range(len(labels)))]
    origin = [str(source) for source in sources] if sources is not None else names
    methods = [method if label == FAKE else "real" for label in labels]
    return pd.DataFrame({"id": names, "label": list(labels), "source": origin, "method": methods, "split": split})


class ArrayDataset(ForgeryDataset):
    """Images held in memory; see :func:`in_memory`."""

    def __init__(
        self,
        images: Sequence[np.ndarray[Any, Any]] | np.ndarray[Any, Any],
        name: str,
        records: pd.DataFrame,
        **transform: Any,
    ) -> None:
        super().__init__(name, records, **transform)
        self._images = images

    def load_image(self, index: int) -> np.ndarray[Any, Any]:
        """Return the image of item ``index``.

        Args:
            index: Row number.

        Returns:
            A uint8 array ``(H, W, 3)``.
        """
        return self._images[index]


def in_memory(
    images: Sequence[np.ndarray[Any, Any]] | np.ndarray[Any, Any],
    labels: Sequence[int],
    *,
    sources: Sequence[Any] | None = None,
    name: str = "in-memory",
    method: str = "fake",
    split: str = "train",
    **transform: Any,
) -> ArrayDataset:
    """Make a data set from images in memory.

    Args:
        images: uint8 arrays ``(H, W, 3)``, or one array ``(N, H, W, 3)``.
        labels: 0 (real) or 1 (fake) per image.
        sources: Video or identity of each image; by default every image has its own source.
        name: The data set's name, for captions.
        method: The name of the forgeries.
        split: The name of the split.
        **transform: ``image_size``, ``mean``, ``std``, ``fit``, as in :class:`ForgeryDataset`.

    Returns:
        The data set.

    Raises:
        DataError: If the numbers of labels and images differ, or images or labels have another form.

    >>> data = in_memory(np.zeros((2, 8, 8, 3), np.uint8), labels=[0, 1], image_size=8)
    >>> image, label = data[1]
    >>> tuple(image.shape), label
    ((3, 8, 8), 1)
    """
    if len(images) != len(labels):
        raise DataError(
            f"expected one label per image, got {len(labels)} labels for {len(images)} images; pass {len(images)}"
        )
    _check_images(images)
    flat = np.asarray(labels)
    if flat.ndim != 1:
        raise DataError(f"expected labels of shape (N,), got {flat.shape}; pass labels.reshape(-1)")
    return ArrayDataset(images, name, make_records(flat.tolist(), sources, method, split), **transform)


def _check_images(images: Any) -> None:
    """Check the form of images in memory, all of which are cheap to look at."""
    shapes = [images.shape[1:]] if isinstance(images, (np.ndarray, Tensor)) else [np.shape(image) for image in images]
    odd = next(
        (shape for shape in shapes if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (3, 4))), None
    )
    if odd is not None or isinstance(images, Tensor):
        got = f"a tensor {tuple(images.shape)}" if isinstance(images, Tensor) else f"shape {tuple(odd or ())}"
        raise DataError(
            f"expected images as uint8 arrays (H, W, 3), got {got}; from (3, H, W) use images.transpose(0, 2, 3, 1), "
            "from a tensor images.permute(0, 2, 3, 1).numpy()"
        )


class WrappedDataset(ForgeryDataset):
    """The user's data set with its own transform, described by a table; see :func:`wrap`."""

    def __init__(self, inner: Dataset[Any], name: str, records: pd.DataFrame, image_size: int) -> None:
        super().__init__(name, records, image_size=image_size)
        self.inner = inner

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = index if index >= 0 else len(self) + index
        image, label = _read_item(self.inner, row, self.name)
        if image.shape[-1] != self.image_size:
            raise DataError(
                f"expected the images of {self.name} to have one size, {self.image_size} as the first, but item {row} "
                f"has {image.shape[-1]}; resize them in the data set"
            )
        stated = int(self.records["label"].iloc[row])
        if label != stated:
            raise DataError(
                f"expected item {row} of {self.name} to have the label {stated} that was stated when the data set was "
                f"opened, but the item itself gives {label}; make its attribute labels or targets agree with its "
                "items, or remove the attribute"
            )
        return image, label


def wrap(inner: Any, name: str, split: str = "train") -> ForgeryDataset:
    """Turn a map-style torch data set of ``(image tensor, label)`` into a :class:`ForgeryDataset`.

    Images are not changed: the inner data set resizes and normalises them itself. Labels come from its attribute
    ``labels`` or ``targets``, after its ``target_transform``. If it has neither, every item is read once for its label.
    Sources come from its attribute ``sources``; without one, every item has its own source. Attributes are found
    through ``Subset`` and ``ConcatDataset``.

    The names in ``class_to_idx`` or ``classes`` must not contradict the labels. ``ImageFolder`` sorts the names, so
    that ``fake`` is 0 and ``real`` is 1; such a data set is refused.

    Args:
        inner: The data set; a :class:`ForgeryDataset` is returned unchanged.
        name: The data set's name, for captions.
        split: The name of the split, for the table.

    Returns:
        A data set with ``records``. Every item that is read is compared with them.

    Raises:
        DataError: If ``inner`` is not a map-style data set, is empty, or its items are not ``(image, label)`` with
            an image tensor ``(3, S, S)`` and a label 0 or 1; if its items or the names of its classes contradict its
            labels.

    >>> import torch
    >>> data = wrap([(torch.zeros(3, 8, 8), 0), (torch.ones(3, 8, 8), 1)], "mine")
    >>> data.labels.tolist(), data.image_size
    ([0, 1], 8)
    """
    if isinstance(inner, ForgeryDataset):
        return inner
    if not (hasattr(inner, "__getitem__") and hasattr(inner, "__len__")):
        raise DataError(
            f"expected {name} to be a map-style data set with __getitem__ and __len__, got {type(inner).__name__}; "
            "return a torch Dataset or a list of (image, label)"
        )
    if len(inner) == 0:
        raise DataError(f"expected images in {name}, got an empty data set; check its path and its split")
    first, _ = _read_item(inner, 0, name)
    entries = stated_labels(inner, name)
    labels = [
        _read_item(inner, row, name)[1] if label is None else as_label(label, name)
        for row, (label, _) in enumerate(entries)
    ]
    records = make_records(labels, stated_sources(inner, name), "fake", split)
    data = WrappedDataset(inner, name, records, int(first.shape[-1]))
    for row in _checked_rows(labels):
        data[row]
    _check_class_names(inner, name, labels, entries)
    return data


def _checked_rows(labels: Sequence[int]) -> list[int]:
    """Rows to read when a data set is opened: the first and the last, and those of each class."""
    found = {0, len(labels) - 1}
    for label in set(labels):
        found |= {labels.index(label), len(labels) - 1 - labels[::-1].index(label)}
    return sorted(found)


def _check_class_names(inner: Any, name: str, labels: Sequence[int], entries: Sequence[Any]) -> None:
    row = wrong_way_round(labels, entries, inner)
    if row is not None:
        words = ("real", "fake")
        raise DataError(
            f"expected the label 0 for real and 1 for fake images in {name}, but item {row} has the label "
            f"{labels[row]} in a class that is named {words[1 - labels[row]]} (ImageFolder numbers classes by the "
            "alphabet: fake 0, real 1); map the labels, for example with ImageFolder(..., "
            "target_transform=lambda index: 1 - index), open the folder as image-folder:PATH, or correct the names in "
            "class_to_idx or classes. A model that was trained with the other labels scores real instead of fake"
        )


def _read_item(inner: Any, row: int, name: str) -> tuple[Tensor, int]:
    """Read an item and check its form."""
    item = inner[row]
    if not (isinstance(item, (tuple, list)) and len(item) == 2):
        raise DataError(
            f"expected the items of {name} to be (image, label), got {type(item).__name__}; return such a pair"
        )
    image, label = item
    if not isinstance(image, Tensor):
        raise DataError(
            f"expected the images of {name} to be tensors, got {type(image).__name__}; convert them in the data "
            "set, or return a ForgeryDataset, which converts them itself"
        )
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] != image.shape[2]:
        raise DataError(
            f"expected the images of {name} to have shape (3, S, S), got {tuple(image.shape)}; resize or permute them"
        )
    return image, as_label(label, name)
