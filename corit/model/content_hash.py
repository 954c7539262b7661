"""Digests of what determines an item's features, as keys of the feature cache: equal digests mean equal tensors."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gsnr_toolkit.data.base import ForgeryDataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["code_digest", "content_digest", "item_digests"]

#: The files that determine the features of an image; a change of any of them makes cached features stale.
_CODE = ("content_hash.py", "counterparts.py", "detector.py", "injection.py", "regions.py", "shared.py", "tower.py")


def item_digests(dataset: ForgeryDataset, rows: Sequence[int], view: int = 0) -> list[str]:
    """Return a digest of what determines each item: pixels and transform; for a blend also recipe, face and seeds.

    The pair itself is not computed. ``view`` is the number of the blend, for data sets with several blends of an image.
    """
    common = {"size": dataset.image_size, "mean": dataset.mean, "std": dataset.std, "fit": dataset.fit}
    if _is_self_blended(dataset):
        return _pair_digests(dataset, rows, view, common)
    return [digest(common, content_digest(dataset, row)) for row in rows]


def content_digest(dataset: ForgeryDataset, row: int) -> str:
    """Digest the pixels of an item, before any transform if the data set can read pixels."""
    if type(dataset).load_image is ForgeryDataset.load_image:
        return array_digest(dataset[row][0].numpy())
    return array_digest(_pixels(dataset, row))


def digest(*parts: Any) -> str:
    """Return a digest of values that JSON can hold, as 32 characters.

    >>> digest("a", 1) == digest("a", 1), digest("a", 1) == digest("a", 2)
    (True, False)
    """
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def array_digest(values: NDArray[Any]) -> str:
    """Digest an array by its shape, type and bytes, as 32 characters."""
    found = hashlib.blake2b(f"{values.shape} {values.dtype}".encode(), digest_size=16)
    found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()


@cache
def code_digest() -> str:
    """Digest the code that computes features from an image, so that changed code never reads old features."""
    model = Path(__file__).parent
    files = [model / name for name in _CODE] + sorted((model.parent / "sbi").rglob("*.py"))
    return digest(*(hashlib.sha256(file.read_bytes()).hexdigest() for file in files))


def _is_self_blended(dataset: ForgeryDataset) -> bool:
    # no import, which would require OpenCV: without the module loaded, nothing can be an instance of its class
    module = sys.modules.get("corit.sbi.dataset")
    return module is not None and isinstance(dataset, module.SelfBlended)


def _pair_digests(dataset: Any, rows: Sequence[int], view: int, common: dict[str, Any]) -> list[str]:
    import cv2

    by_epoch = dataset.seeding == "epoch"
    recipe = [asdict(dataset.recipe), [dataset.seed, view] if by_epoch else None, cv2.__version__]
    made: dict[int, str] = {}
    found = []
    for row in rows:
        pair, member = divmod(int(row), 2)
        if pair not in made:
            pixels, face = dataset.origin(row)
            outline = None if face is None else [_listed(face.landmarks), _listed(face.box)]
            made[pair] = digest(common, recipe, array_digest(pixels), outline)
        found.append(digest(made[pair], member))
    return found


def _listed(points: NDArray[Any] | None) -> list[Any] | None:
    return None if points is None else points.tolist()


def _pixels(dataset: ForgeryDataset, row: int) -> NDArray[Any]:
    image: Any = dataset.load_image(row)
    return image if isinstance(image, np.ndarray) else np.asarray(image.convert("RGB"))
