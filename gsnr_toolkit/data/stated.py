"""What a data set states of its items without reading them: labels, sources, and what its class names mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Subset

from gsnr_toolkit.data.base import FAKE, REAL, ForgeryDataset
from gsnr_toolkit.data.checks import DataError
from gsnr_toolkit.support.arguments import shown

__all__ = ["as_label", "class_of", "per_item", "stated_labels", "stated_sources", "wrong_way_round"]

_REAL_WORDS = {
    "real", "original", "authentic", "pristine", "genuine", "bonafide", "bona", "live", "nature", "natural",
    "untampered", "unaltered",
}  # fmt: skip
_FAKE_WORDS = {
    "fake", "forged", "forgery", "forgerie", "manipulated", "manipulation", "deepfake", "spoof", "spoofed", "synthetic",
    "synthesis", "synthesized", "synthesised", "generated", "ai", "aigc", "tampered", "altered", "attack",
}  # fmt: skip
_NEGATIONS = {"no", "non", "not", "without"}

#: What is known of one item: its label, and its class by name. None is unknown. A mapping gives the class by label.
_Entry = tuple[Any, "int | Mapping[int, int] | None"]


def class_of(name: str) -> int | None:
    """Tell from the name of a class whether its images are real or fake.

    Args:
        name: The name; its words count, in upper or lower case: ``FF-real``, ``1_fake``, ``RealFaces``, ``deepfakes``.

    Returns:
        0 (real), 1 (fake), or None if the name does not tell.

    >>> class_of("0_real"), class_of("DeepFakes"), class_of("cats"), class_of("not_fake")
    (0, 1, None, None)
    """
    joined = {part.lower() for part in re.findall(r"[A-Za-z]+", name)}
    words = joined | {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
    words |= {word.removesuffix("s") for word in words}
    real, fake = bool(words & _REAL_WORDS), bool(words & _FAKE_WORDS)
    if real == fake or words & _NEGATIONS:
        return None
    return REAL if real else FAKE


def as_label(label: Any, name: str) -> int:
    """Return a label as 0 or 1.

    Args:
        label: A number, truth value, tensor or array with one element.
        name: The data set, for the message.

    Returns:
        0 (real) or 1 (fake).

    Raises:
        DataError: If it is anything else.

    >>> as_label(np.array([1.0]), "mine")
    1
    """
    try:
        value = float(np.asarray(label).reshape(()))
    except (TypeError, ValueError):
        value = -1.0
    if value not in (0.0, 1.0):
        plain = label.tolist() if hasattr(label, "tolist") else label
        raise DataError(
            f"expected the labels of {name} to be 0 (real) or 1 (fake), one per image, got {shown(plain)}; map them"
        )
    return int(value)


def per_item(dataset: Any, read: Callable[[Any], Sequence[Any] | None]) -> list[Any]:
    """Read what a data set states of each item, also through ``Subset`` and ``ConcatDataset``.

    Args:
        dataset: A map-style data set.
        read: Returns one entry per item of a data set that states it, else None.

    Returns:
        One entry per item; None where nothing is stated.
    """
    own = read(dataset)
    if own is not None:
        return list(own)
    if isinstance(dataset, Subset):
        whole = per_item(dataset.dataset, read)
        return [whole[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        return [entry for part in dataset.datasets for entry in per_item(part, read)]
    return [None] * len(dataset)


def stated_labels(dataset: Any, name: str) -> list[_Entry]:
    """Return the label of each item as its attributes state it, and its class by the names of the classes.

    Args:
        dataset: A map-style data set.
        name: Its name, for messages.

    Returns:
        Pairs of label and class, one per item.

    Raises:
        DataError: If an attribute does not have one entry per item.
    """
    entries = per_item(dataset, lambda part: _labels_of(part, name))
    return [(None, None) if entry is None else entry for entry in entries]


def stated_sources(dataset: Any, name: str) -> list[str] | None:
    """Return the source of each item by the attribute ``sources``; an item without one is its own source.

    Args:
        dataset: A map-style data set.
        name: Its name, for messages.

    Returns:
        Sources, or None if nothing states them.

    Raises:
        DataError: If the attribute does not have one entry per item.
    """

    def read(part: Any) -> Sequence[Any] | None:
        if isinstance(part, ForgeryDataset):
            return part.records["source"].tolist()
        return _attribute(part, ("sources",), name)

    found = per_item(dataset, read)
    if all(source is None for source in found):
        return None
    return [f"item {row}" if source is None else str(source) for row, source in enumerate(found)]


def wrong_way_round(labels: Sequence[int], entries: Sequence[_Entry], dataset: Any) -> int | None:
    """Find an item whose label contradicts the name of its class.

    Args:
        labels: 0 or 1 per item.
        entries: What :func:`stated_labels` returned.
        dataset: The data set.

    Returns:
        The number of the first such item, or None.
    """
    pairs = zip(labels, entries, strict=True)
    classes = [known.get(label) if isinstance(known, Mapping) else known for label, (_, known) in pairs]
    told = [row for row, known in enumerate(classes) if known is not None]
    wrong = [row for row in told if classes[row] != labels[row]]
    # a wrapper of another type may have reordered the items: what differs here and there says nothing of its classes
    certain = not _is_wrapper(dataset) or len(wrong) == len(told)
    return wrong[0] if wrong and certain else None


def _labels_of(dataset: Any, name: str) -> list[_Entry] | None:
    """Return label and class of each item of a data set that has labels or class names itself."""
    if isinstance(dataset, ForgeryDataset):
        return [(label, None) for label in dataset.labels.tolist()]
    raw = _attribute(dataset, ("labels", "targets"), name)
    meaning = _meaning(dataset)
    if raw is not None:
        return _with_classes(dataset, raw, meaning)
    if isinstance(dataset, (Subset, ConcatDataset)):
        return None
    if meaning:
        known = _transformed_keys(dataset, meaning)
        return [(None, known)] * len(dataset)
    if _is_wrapper(dataset):
        return [(None, known) for _, known in stated_labels(dataset.dataset, name)]
    return None


def _with_classes(dataset: Any, raw: Sequence[Any], meaning: Mapping[int, int]) -> list[_Entry]:
    """Pair raw labels with their classes, and apply ``target_transform`` where the items have it applied."""
    transform = getattr(dataset, "target_transform", None)
    if not callable(transform):
        return [(label, meaning.get(_index(label))) for label in raw]
    changed = _apply(transform, raw)
    differs = next((row for row, label in enumerate(raw) if _index(changed[row]) != _index(label)), None)
    if differs is None or _index(dataset[differs][1]) == _index(changed[differs]):
        return [(new, meaning.get(_index(label))) for new, label in zip(changed, raw, strict=True)]
    known = _transformed_keys(dataset, meaning)  # the attribute holds transformed labels already
    return [(label, known.get(_index(label))) for label in raw]


def _transformed_keys(dataset: Any, meaning: Mapping[int, int]) -> dict[int, int]:
    """Return the classes by what ``target_transform`` makes of their indices; ambiguous ones are left out."""
    transform = getattr(dataset, "target_transform", None)
    if not callable(transform):
        return dict(meaning)
    found: dict[int, set[int]] = {}
    for new, known in zip(_apply(transform, list(meaning)), meaning.values(), strict=True):
        found.setdefault(_index(new), set()).add(known)
    return {index: known.pop() for index, known in found.items() if len(known) == 1}


def _apply(transform: Callable[[Any], Any], raw: Sequence[Any]) -> list[Any]:
    try:
        return [transform(label) for label in raw]
    except Exception:  # made for another form of label; the items' own labels are compared later in any case
        return list(raw)


def _meaning(dataset: Any) -> dict[int, int]:
    """Return the classes, real or fake, of the indices that class names tell of."""
    for attribute in ("class_to_idx", "idx_to_class", "classes", "class_names"):
        given = getattr(dataset, attribute, None)
        if isinstance(given, Mapping):
            pairs: Iterable[tuple[Any, Any]] = given.items()
        elif isinstance(given, (list, tuple, np.ndarray)):
            pairs = enumerate(given)
        else:
            continue
        named = [(second, first) if isinstance(first, str) else (first, second) for first, second in pairs]
        classes = {_index(index): class_of(text) for index, text in named if isinstance(text, str)}
        told = {index: known for index, known in classes.items() if known is not None}
        if told:
            return told
    return {}


def _index(label: Any) -> int:
    """The whole number that a label is; -1 for anything else."""
    try:
        value = float(np.asarray(label).reshape(()))
    except (TypeError, ValueError):
        return -1
    return int(value) if value.is_integer() else -1


def _is_wrapper(dataset: Any) -> bool:
    """Whether a data set of another type holds one of equal length as ``dataset``, as augmentations do."""
    inner = getattr(dataset, "dataset", None)
    return not isinstance(dataset, Subset) and hasattr(inner, "__getitem__") and _length(inner) == len(dataset)


def _length(dataset: Any) -> int:
    return len(dataset) if hasattr(dataset, "__len__") else -1


def _attribute(dataset: Any, names: tuple[str, ...], name: str) -> Sequence[Any] | None:
    """Return the first of some attributes that holds one entry per item."""
    for attribute in names:
        value = getattr(dataset, attribute, None)
        if value is None or callable(value) or not hasattr(value, "__len__"):
            continue
        if len(value) != len(dataset):
            raise DataError(
                f"expected one entry per item of {name} in its attribute {attribute}, got {len(value)} for "
                f"{len(dataset)}; correct the attribute"
            )
        return value.tolist() if hasattr(value, "tolist") else list(value)
    return None
