"""One's own data: arrays in memory, or any map-style torch data set, as a :class:`ForgeryDataset`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor
from torch.utils.data import Dataset

from gsnr_toolkit.data.base import FAKE, DataError, ForgeryDataset

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
        sources: The unit of independence of each item; by default each item is a source of its own.
        method: What the forgeries are called.
        split: The name of the split.
        ids: Unique names; by default the running number.

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
        raise DataError(f"expected one entry per item in each of {', '.join(lengths)}, but got {lengths}")
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
        """Return item ``index`` as it was given.

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
        sources: Video or identity of each image; by default each image is a source of its own.
        name: The data set's name, for captions.
        method: What the forgeries are called.
        split: The name of the split.
        **transform: ``image_size``, ``mean``, ``std``, ``fit``, as in :class:`ForgeryDataset`.

    Returns:
        The data set.

    Raises:
        DataError: If there are not as many labels as images.

    >>> data = in_memory(np.zeros((2, 8, 8, 3), np.uint8), labels=[0, 1], image_size=8)
    >>> image, label = data[1]
    >>> tuple(image.shape), label
    ((3, 8, 8), 1)
    """
    if len(images) != len(labels):
        raise DataError(f"expected one label per image, but got {len(labels)} labels, {len(images)} images")
    return ArrayDataset(images, name, make_records(labels, sources, method, split), **transform)


class WrappedDataset(ForgeryDataset):
    """A data set of one's own, with its own transform, under the common table; see :func:`wrap`."""

    def __init__(self, inner: Dataset[Any], name: str, records: pd.DataFrame, image_size: int) -> None:
        super().__init__(name, records, image_size=image_size)
        self.inner = inner

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self.inner[index]
        return item[0], int(item[1])


def wrap(inner: Any, name: str, split: str = "train") -> ForgeryDataset:
    """Bring a map-style torch data set of ``(image tensor, label)`` under the common table.

    Its images are used as they come: a data set of one's own does its own resizing and normalisation. The
    labels are read from its attribute ``labels`` or ``targets``, or, where it has neither, from the items
    themselves, which reads each of them once. Sources are read from its attribute ``sources``; without it
    each item counts as a source of its own.

    Args:
        inner: The data set; a :class:`ForgeryDataset` is returned unchanged.
        name: The data set's name, for captions.
        split: The name of the split, for the table.

    Returns:
        A data set with ``records``.

    Raises:
        DataError: If it is no map-style data set, is empty, or its items are not ``(image, label)`` with
            an image tensor ``(3, S, S)`` and a label 0 or 1.

    >>> import torch
    >>> data = wrap([(torch.zeros(3, 8, 8), 0), (torch.ones(3, 8, 8), 1)], "mine")
    >>> data.labels.tolist(), data.image_size
    ([0, 1], 8)
    """
    if isinstance(inner, ForgeryDataset):
        return inner
    if not (hasattr(inner, "__getitem__") and hasattr(inner, "__len__")):
        raise DataError(
            f"{name} must be a map-style data set with __getitem__ and __len__, but is of type {type(inner).__name__}"
        )
    if len(inner) == 0:
        raise DataError(f"{name} holds no image at all")
    image_size = _check_item(inner[0], name)
    labels = _first_attribute(inner, ("labels", "targets"))
    if labels is None:
        labels = [inner[index][1] for index in range(len(inner))]
    sources = _first_attribute(inner, ("sources",))
    records = make_records([_as_label(label, name) for label in labels], sources, "fake", split)
    if len(records) != len(inner):
        raise DataError(f"{name} has {len(inner)} items but {len(records)} labels")
    return WrappedDataset(inner, name, records, image_size)


def _check_item(item: Any, name: str) -> int:
    # Everything later relies on this form; the first item stands for all. Returns the images' side.
    if not (isinstance(item, (tuple, list)) and len(item) == 2):
        raise DataError(f"the items of {name} must be (image, label), but the first is a {type(item)}")
    image = item[0]
    if not isinstance(image, Tensor):
        raise DataError(
            f"the images of {name} must be tensors, but the first is of type {type(image).__name__}: convert "
            "it in the data set, or return a ForgeryDataset, which does it for you"
        )
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] != image.shape[2]:
        raise DataError(f"the images of {name} must have shape (3, S, S), but the first has {tuple(image.shape)}")
    return int(image.shape[-1])


def _first_attribute(inner: Any, names: tuple[str, ...]) -> Any | None:
    return next((getattr(inner, name) for name in names if getattr(inner, name, None) is not None), None)


def _as_label(label: Any, name: str) -> int:
    if float(label) not in (0.0, 1.0):
        raise DataError(f"the labels of {name} must be 0 (real) or 1 (fake), but {label!r} occurs")
    return int(label)
