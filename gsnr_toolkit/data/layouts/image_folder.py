"""Any folder of images whose class is the name of a folder.

The nearest folder above an image whose name is in :data:`REAL_NAMES` or :data:`FAKE_NAMES` (in lower or upper case)
gives its class. Folders called train, val or test give the split; below the class only if every image lies in one, so
that a source may be called test. All of these work::

    PATH/real/1.png                    PATH/fake/1.png
    PATH/train/airplane/0_real/1.png   PATH/train/airplane/1_fake/1.png
    PATH/glide/val/nature/1.JPEG       PATH/glide/val/ai/1.png

For the published sets prefer their own readers, which know their folders and their protocol:
:mod:`gsnr_toolkit.data.layouts.forensynths` and :mod:`gsnr_toolkit.data.layouts.genimage`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from gsnr_toolkit.data.base import FAKE, REAL
from gsnr_toolkit.data.checks import DataError, check_choice
from gsnr_toolkit.data.layouts.confounds import note_confounds
from gsnr_toolkit.data.layouts.image_files import FileDataset, Skips, Video, natural_key, open_videos, walk_images

__all__ = ["FAKE_NAMES", "REAL_NAMES", "open_image_folder"]

REAL_NAMES = frozenset({"real", "0_real", "nature", "original", "originals", "authentic"})
FAKE_NAMES = frozenset({"fake", "1_fake", "ai", "forged", "synthetic", "generated"})
_Splits: TypeAlias = tuple[str | None, str | None]
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def open_image_folder(name: str, *, path: Path, split: str = "train", **options: Any) -> FileDataset:
    """Open a folder of real and fake images.

    Every image has its own source, unless it lies in a folder *below* the class folder (``real/video7/3.png``).
    Then that folder is the source, and its images count as correlated. ``method`` is the first folder on the way
    that is neither a split nor a class (the generator, for GenImage).

    A folder without split folders is opened for every split. Training and testing on it is fit for a quick look only.

    Args:
        name: The data set's name.
        path: The folder.
        split: ``"train"``, ``"val"`` or ``"test"``, if the folder has such sub-folders.
        **options: ``size``, ``seed``, ``verify``, ``frames_per_video`` (images per source folder; all by
            default) and the image transform, as in :func:`gsnr_toolkit.data.layouts.image_files.open_videos`.

    Returns:
        The data set. A warning reports if real and fake images differ in file format or in size, because a detector
        may learn only that difference.

    Raises:
        DataError: If the folder does not exist, or has no images of one of the classes in this split.
    """
    if not path.is_dir():
        raise DataError(f"expected image-folder:PATH to name a folder, but {path} is none; correct the path")
    skips = Skips()
    scanned = list(_scan(path, skips))
    # a folder below the class is a split only if every image lies in one: else it is a source that is called so
    below = all(above or inside for (above, inside), *_ in scanned)
    found = [
        (above or (inside if below else None), label, method, source, file)
        for (above, inside), label, method, source, file in scanned
    ]
    splits = sorted({part for part, *_ in found if part is not None})
    if splits and not any(part is None for part, *_ in found):
        check_choice(f"the split of {path}", split, splits)
    groups: dict[tuple[int, str, str], list[Path]] = {}
    for part, label, method, source, file in found:
        if part in (None, split):
            groups.setdefault((label, method, source), []).append(file)
    if not groups:
        raise DataError(
            f"expected images below {path} in folders named by their class, but found none; put them into "
            f"{path / 'real'} and {path / 'fake'}, 0_real and 1_fake, or nature and ai. {skips.summary()}"
        )
    videos = [
        Video(source, label, source, method, sorted(files, key=natural_key))
        for (label, method, source), files in sorted(groups.items())
    ]
    options.setdefault("frames_per_video", None)
    dataset = open_videos(name, videos, skips, split=split, caption=path.name, **options)
    note_confounds(name, dataset)
    return dataset


def _scan(root: Path, skips: Skips) -> Iterator[tuple[_Splits, int, str, str, Path]]:
    """Yield ``((split above the class, split below it), label, method, source, file)`` of every image."""
    for folder, _, images in walk_images(root, skips):
        parts = folder.relative_to(root).parts
        at = next((i for i in reversed(range(len(parts))) if _label(parts[i]) is not None), None)
        for image in images:
            path = folder / image
            if at is None:
                skips.add(path, "no folder above it is named by a class")
                continue
            splits = _split(parts[:at]), _split(parts[at + 1 :])
            method = next((part for part in parts[:at] if part.lower() not in _SPLITS), parts[at])
            below = "/".join(parts[at + 1 :])
            source = "/".join(parts) if below else path.relative_to(root).as_posix()
            label = _label(parts[at])
            yield splits, int(label or 0), "real" if label == REAL else method, source, path


def _split(parts: tuple[str, ...]) -> str | None:
    return next((_SPLITS[part.lower()] for part in parts if part.lower() in _SPLITS), None)


def _label(folder: str) -> int | None:
    folded = folder.lower()
    return REAL if folded in REAL_NAMES else FAKE if folded in FAKE_NAMES else None
