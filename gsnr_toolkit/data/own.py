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
        DataError: If the numbers of labels and images differ.

    >>> data = in_memory(np.zeros((2, 8, 8, 3), np.uint8), labels=[0, 1], image_size=8)
    >>> image, label = data[1]
    >>> tuple(image.shape), label
    ((3, 8, 8), 1)
    """
    if len(images) != len(labels):
        raise DataError(
            f"expected one label per image, got {len(labels)} labels for {len(images)} images; pass {len(images)}"
        )
    return ArrayDataset(images, name, make_records(labels, sources, method, split), **transform)


class WrappedDataset(ForgeryDataset):
    """The user's data set with its own transform, described by a table; see :func:`wrap`."""

    def __init__(self, inner: Dataset[Any], name: str, records: pd.DataFrame, image_size: int) -> None:
        super().__init__(name, records, image_size=image_size)
        self.inner = inner

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self.inner[index]
        return item[0], int(item[1])


def wrap(inner: Any, name: str, split: str = "train") -> ForgeryDataset:
    """Turn a map-style torch data set of ``(image tensor, label)`` into a :class:`ForgeryDataset`.

    Images are not changed: the inner data set resizes and normalises them itself. Labels come from its attribute
    ``labels`` or ``targets``. If it has neither, every item is read once for its label. Sources come from its
    attribute ``sources``; without one, every item has its own source.

    Args:
        inner: The data set; a :class:`ForgeryDataset` is returned unchanged.
        name: The data set's name, for captions.
        split: The name of the split, for the table.

    Returns:
        A data set with ``records``.

    Raises:
        DataError: If ``inner`` is not a map-style data set, is empty, or its items are not ``(image, label)`` with
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
            f"expected {name} to be a map-style data set with __getitem__ and __len__, got {type(inner).__name__}; "
            "return a torch Dataset or a list of (image, label)"
        )
    if len(inner) == 0:
        raise DataError(f"expected images in {name}, got an empty data set; check its path and its split")
    image_size = _check_item(inner[0], name)
    labels = _first_attribute(inner, ("labels", "targets"))
    if labels is None:
        labels = [inner[index][1] for index in range(len(inner))]
    sources = _first_attribute(inner, ("sources",))
    records = make_records([_as_label(label, name) for label in labels], sources, "fake", split)
    if len(records) != len(inner):
        raise DataError(
            f"expected one label per item of {name}, got {len(records)} for {len(inner)}; correct its labels"
        )
    return WrappedDataset(inner, name, records, image_size)


def _check_item(item: Any, name: str) -> int:
    """Check the form of the first item, which stands for all, and return the side of its image."""
    if not (isinstance(item, (tuple, list)) and len(item) == 2):
        raise DataError(
            f"expected the items of {name} to be (image, label), got {type(item).__name__}; return such a pair"
        )
    image = item[0]
    if not isinstance(image, Tensor):
        raise DataError(
            f"expected the images of {name} to be tensors, got {type(image).__name__}; convert them in the data "
            "set, or return a ForgeryDataset, which converts them itself"
        )
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] != image.shape[2]:
        raise DataError(
            f"expected the images of {name} to have shape (3, S, S), got {tuple(image.shape)}; resize or permute them"
        )
    return int(image.shape[-1])


def _first_attribute(inner: Any, names: tuple[str, ...]) -> Any | None:
    return next((getattr(inner, name) for name in names if getattr(inner, name, None) is not None), None)


def _as_label(label: Any, name: str) -> int:
    if float(label) not in (0.0, 1.0):
        raise DataError(f"expected the labels of {name} to be 0 (real) or 1 (fake), got {label!r}; map them")
    return int(label)
