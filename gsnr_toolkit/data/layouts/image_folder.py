"""A folder of images whose class is a folder's name: one's own, or one in the manner of a published set.

The class of an image is that of the nearest folder above it with a telling name (:data:`REAL_NAMES`,
:data:`FAKE_NAMES`, in any case). Folders called train, val or test give the split. So all of these work::

    PATH/real/1.png                    PATH/fake/1.png
    PATH/train/airplane/0_real/1.png   PATH/train/airplane/1_fake/1.png
    PATH/glide/val/nature/1.JPEG       PATH/glide/val/ai/1.png

The published sets themselves have rows of their own, which know their folders and their protocol:
:mod:`gsnr_toolkit.data.layouts.forensynths` and :mod:`gsnr_toolkit.data.layouts.genimage`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gsnr_toolkit.data.base import FAKE, REAL, DataError
from gsnr_toolkit.data.layouts.confounds import format_confounds
from gsnr_toolkit.data.layouts.image_files import IMAGE_SUFFIXES, FileDataset, Skips, Video, natural_key, open_videos
from gsnr_toolkit.errors import ProbeWarning

__all__ = ["FAKE_NAMES", "REAL_NAMES", "open_image_folder"]

REAL_NAMES = frozenset({"real", "0_real", "nature", "original", "originals", "authentic"})
FAKE_NAMES = frozenset({"fake", "1_fake", "ai", "forged", "synthetic", "generated"})
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def open_image_folder(name: str, *, path: Path, split: str = "train", **options: Any) -> FileDataset:
    """Open a folder of real and fake images.

    Each image is a source of its own, unless it lies in a folder *below* the class folder
    (``real/video7/3.png``): then that folder is the source, and its images count as correlated. ``method``
    is the first folder on the way that is neither a split nor a class (GenImage's generator).

    A folder without split folders serves every split, so train on it and test on it only for a quick look.

    Args:
        name: The data set's name.
        path: The folder.
        split: ``"train"``, ``"val"`` or ``"test"``, where the folder has such sub-folders.
        **options: ``size``, ``seed``, ``verify``, ``frames_per_video`` (images per source folder; all by
            default) and the image transform, as in :func:`gsnr_toolkit.data.layouts.image_files.open_videos`.

    Returns:
        The data set. If real and fake images differ in file format or in size, a warning says so: a
        detector may learn that difference alone.

    Raises:
        DataError: If the folder does not exist, or has no image of one of the classes in this split.
    """
    if not path.is_dir():
        raise DataError(f"image-folder:PATH needs a folder, but {path} does not exist or is a file")
    skips = Skips()
    found = list(_scan(path, skips))
    splits = sorted({part for part, *_ in found if part is not None})
    if splits and split not in splits and not any(part is None for part, *_ in found):
        raise DataError(f"{path} has no split {split!r}; it has: {', '.join(splits)}")
    groups: dict[tuple[int, str, str], list[Path]] = {}
    for part, label, method, source, file in found:
        if part in (None, split):
            groups.setdefault((label, method, source), []).append(file)
    if not groups:
        raise DataError(
            f"no image below {path} lies in a folder whose name tells its class. Expected "
            f"{path / 'real'} and {path / 'fake'}, 0_real and 1_fake, or nature and ai. {skips.summary()}"
        )
    videos = [
        Video(source, label, source, method, sorted(files, key=natural_key))
        for (label, method, source), files in sorted(groups.items())
    ]
    options = {"caption": path.name, "frames_per_video": None, **options}
    dataset = open_videos(name, videos, skips, split=split, **options)
    confounds = format_confounds(dataset)
    dataset.notes += confounds
    if confounds:
        warnings.warn(f"{name}: {'; '.join(confounds)}", ProbeWarning, stacklevel=2)
    return dataset


def _scan(root: Path, skips: Skips) -> Iterator[tuple[str | None, int, str, str, Path]]:
    """Yield ``(split, label, method, source, file)`` of every image below ``root``."""
    seen: set[str] = set()  # links are followed, and may lead in circles
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        images = [file for file in sorted(files) if Path(file).suffix.lower() in IMAGE_SUFFIXES]
        parts = Path(folder).relative_to(root).parts
        at = next((i for i in reversed(range(len(parts))) if _label(parts[i]) is not None), None)
        for file in images:
            path = Path(folder) / file
            if at is None:
                skips.add(path, "no folder above tells its class")
                continue
            split = next((_SPLITS[part.lower()] for part in parts if part.lower() in _SPLITS), None)
            method = next((part for part in parts[:at] if part.lower() not in _SPLITS), parts[at])
            below = "/".join(parts[at + 1 :])
            source = "/".join(parts) if below else path.relative_to(root).as_posix()
            label = _label(parts[at])
            yield split, int(label or 0), "real" if label == REAL else method, source, path


def _label(folder: str) -> int | None:
    folded = folder.lower()
    return REAL if folded in REAL_NAMES else FAKE if folded in FAKE_NAMES else None
