"""Disjoint ranges of identity numbers: one for pretraining, one for each split of the forgery sets."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from gsnr_toolkit.data.checks import check_choice

_RANGE = 1 << 30

SPLITS: MappingProxyType[str, int] = MappingProxyType(
    {"train": 0, "val": _RANGE, "test": 2 * _RANGE, "pretrain": 3 * _RANGE}
)
"""First identity number of each split; each split has 2^30 identities."""

FORGERY_SPLITS = ("train", "val", "test")
"""The splits of the forgery data sets."""


def identities(split: str, count: int) -> NDArray[np.int64]:
    """Return the first identity numbers of a split.

    Args:
        split: One of ``train``, ``val``, ``test``, ``pretrain``.
        count: Number of identities.

    Returns:
        Identity numbers, (count,).

    Raises:
        ValueError: If the split is unknown or ``count`` is out of range.

    >>> identities("train", 3).tolist()
    [0, 1, 2]
    """
    check_choice("split", split, SPLITS, ValueError)
    if not 0 < count <= _RANGE:
        raise ValueError(f"expected count to be from 1 to {_RANGE}, got {count}; ask for fewer identities, or for one")
    return SPLITS[split] + np.arange(count, dtype=np.int64)
