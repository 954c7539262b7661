"""Disjoint ranges of identity numbers: one for pretraining, one for each split of the forgery sets."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

_RANGE = 1 << 30

SPLITS: MappingProxyType[str, int] = MappingProxyType(
    {"train": 0, "val": _RANGE, "test": 2 * _RANGE, "pretrain": 3 * _RANGE}
)
"""First identity number of each split; each holds 2^30 identities."""

FORGERY_SPLITS = ("train", "val", "test")
"""The splits that the forgery data sets offer."""


def identities(split: str, count: int) -> NDArray[np.int64]:
    """The first identity numbers of a split.

    Args:
        split: One of ``train``, ``val``, ``test``, ``pretrain``.
        count: How many.

    Returns:
        Identity numbers, (count,).

    Raises:
        ValueError: If the split is unknown or ``count`` does not fit.

    >>> identities("train", 3).tolist()
    [0, 1, 2]
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if not 0 < count <= _RANGE:
        raise ValueError(f"count must lie in 1..{_RANGE}, got {count}")
    return SPLITS[split] + np.arange(count, dtype=np.int64)
