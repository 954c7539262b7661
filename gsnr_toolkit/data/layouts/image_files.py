"""What all layouts share: listing images, choosing frames of a video, noting what was skipped, reading files."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from gsnr_toolkit.data.base import FAKE, REAL, ForgeryDataset, probe_indices
from gsnr_toolkit.data.checks import DataError
from gsnr_toolkit.data.images import is_hidden, is_image, read_image, unread_kind, unreadable
from gsnr_toolkit.errors import ProbeWarning

__all__ = [
    "FileDataset",
    "Skips",
    "Video",
    "evenly_spaced",
    "frames_of",
    "natural_key",
    "open_videos",
    "walk_images",
]


@dataclass(frozen=True)
class Video:
    """The frames of one video, or any set of images that are not independent of each other.

    Attributes:
        name: Name of the video, unique together with ``method``.
        label: 0 real, 1 fake.
        source: The unit of independence.
        method: ``"real"`` or the forgery's name.
        frames: The images, in order.
        domain: The test set to which a row of a results table refers, if the data set holds several; else None.
    """

    name: str
    label: int
    source: str
    method: str
    frames: Sequence[Path]
    domain: str | None = None


class Skips:
    """What a reader left out and why; one warning reports the counts when the data set is ready."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str]] = []

    def add(self, path: object, reason: str) -> None:
        """Note one file, folder or entry that was left out.

        Args:
            path: The file, folder or entry.
            reason: A few words on why; equal reasons are counted together.
        """
        self._rows.append((str(path), reason))

    def table(self) -> pd.DataFrame:
        """Return all notes, in the columns ``path`` and ``reason``."""
        return pd.DataFrame(self._rows, columns=["path", "reason"], dtype=str)

    def summary(self) -> str:
        """Return the count of each reason, most frequent first, with an example."""
        counts = self.table().groupby("reason", sort=False)["path"].agg(["size", "first"])
        counts = counts.sort_values("size", ascending=False, kind="stable")
        return "; ".join(f"{size} x {reason} (first: {first})" for reason, size, first in counts.itertuples())

    def warn(self, name: str, kept: int) -> None:
        """Warn once if anything was left out.

        Args:
            name: The data set.
            kept: How many items remain.
        """
        if self._rows:
            warnings.warn(
                f"{name}: skipped {len(self._rows)}, kept {kept}. {self.summary()}. "
                "The full list is in dataset.skipped",
                ProbeWarning,
                stacklevel=3,
            )


def frames_of(places: Sequence[Path], skips: Skips) -> list[Path]:
    """List the frames of a video in natural order.

    Args:
        places: Folders in which the video may lie; the first that exists is read.
        skips: A missing or empty folder is noted here.

    Returns:
        The images; empty if the video was skipped.
    """
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        skips.add(places[0], "missing video folder")
        return []
    names = [path.name for path in folder.iterdir()]
    frames = sorted((folder / name for name in images_among(folder, names, skips)), key=natural_key)
    if not frames:
        skips.add(folder, "video folder without frames")
    return frames


def images_among(folder: Path, names: Iterable[str], skips: Skips) -> list[str]:
    """Choose the names of pictures, and note those of a kind that cannot be read.

    Args:
        folder: Where the files lie.
        names: Names of files.
        skips: Pictures that have no reader are noted here. Hidden files are left out without a note.

    Returns:
        Names of the pictures, sorted.
    """
    ordered = sorted(names)
    for name in ordered:
        reason = unread_kind(name)
        if reason is not None:
            skips.add(folder / name, reason)
    return [name for name in ordered if is_image(name)]


def walk_images(root: Path, skips: Skips) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk over all folders below a root that are not hidden, following links, each folder once.

    Args:
        root: Where to start.
        skips: Pictures that have no reader are noted here.

    Yields:
        A folder, its sub-folders in order (empty that list to stay out of them), and the names of its images.
    """
    seen: set[str] = set()  # links may lead in circles
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not is_hidden(name))
        yield Path(folder), subfolders, images_among(Path(folder), files, skips)


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Return a sort key that puts frame 2 before frame 10, with or without leading zeros.

    Args:
        path: A file.

    Returns:
        The parts of its name, digits as numbers.

    >>> [path.name for path in sorted([Path("10.png"), Path("2.png")], key=natural_key)]
    ['2.png', '10.png']
    """
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts]


def evenly_spaced(total: int, count: int) -> list[int]:
    """Choose ``count`` of ``total`` frames: the centres of ``count`` equal parts of the video.

    A single frame is therefore the middle one. (Several published loaders take the first ``count`` frames, or every
    ``total // count``-th from the first.)

    Args:
        total: Number of frames in the video.
        count: Number of frames to choose; all frames if the video has no more.

    Returns:
        Indices in increasing order.

    >>> evenly_spaced(300, 1), evenly_spaced(10, 3), evenly_spaced(2, 8)
    ([150], [1, 5, 8], [0, 1])
    """
    if count >= total:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


class FileDataset(ForgeryDataset):
    """A :class:`ForgeryDataset` whose records have a column ``path`` with the image file of each item."""

    def load_image(self, index: int) -> Image.Image:
        """Read the image of item ``index`` from its file.

        Args:
            index: Row number.

        Returns:
            The decoded image, in RGB.

        Raises:
            DataError: If the file cannot be read. No other image ever takes its place, since that would change the
                data without notice.
        """
        path = self.records["path"].iloc[index]
        try:
            return read_image(path)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(
                f"expected to read item {index} of {self.name}, but {path} failed ({error}); open the data set with "
                "verify=True to skip unreadable files, or restore the file"
            ) from error


def open_videos(
    name: str,
    videos: Iterable[Video],
    skips: Skips,
    *,
    split: str,
    frames_per_video: int | None = 1,
    size: int | None = None,
    seed: int = 0,
    verify: bool = True,
    caption: str | None = None,
    notes: Sequence[str] = (),
    **transform: Any,
) -> FileDataset:
    """Turn videos into a data set: choose frames, and skip and report what cannot be read.

    Args:
        name: The data set's name.
        videos: The videos of both classes.
        skips: What the layout has skipped so far; unreadable frames are added.
        split: The name of the split.
        frames_per_video: Number of evenly spaced frames per video; None takes all. One is right for a probe,
            because frames of one video are correlated.
        size: Keep at most this many items, drawn class-balanced by ``seed``; None keeps all.
        seed: Seed of that draw.
        verify: Check that every chosen file can be decoded.
        caption: The data set's proper name.
        notes: Sentences for the report.
        **transform: ``image_size``, ``mean``, ``std``, ``fit``.

    Returns:
        The data set; its table ``skipped`` lists what was left out. Besides the usual columns its records have
        ``video``, ``path`` and ``domain`` (the data set's name, unless a video gives another).

    Raises:
        DataError: If ``frames_per_video`` is not positive, or if no image of one of the classes is left.
    """
    if frames_per_video is not None and frames_per_video < 1:
        raise DataError(f"expected frames_per_video to be at least 1, got {frames_per_video}; pass None for all frames")
    records = _records(videos, frames_per_video, split, name)
    _require_both_classes(name, split, records, skips)
    if size is not None and size < len(records):
        records = records.iloc[sorted(probe_indices(records, size, seed))]
    if verify:
        reasons = [unreadable(path) for path in records["path"]]
        for path, reason in zip(records["path"], reasons, strict=True):
            if reason is not None:
                skips.add(path, reason)
        records = records[[reason is None for reason in reasons]]
        _require_both_classes(name, split, records, skips)
    skips.warn(name, kept=len(records))
    return FileDataset(name, records, caption=caption, skipped=skips.table(), notes=notes, **transform)


def _records(videos: Iterable[Video], per_video: int | None, split: str, name: str) -> pd.DataFrame:
    rows = [
        {
            "id": f"{video.method}/{video.name}/{video.frames[index].name}",
            "label": video.label,
            "source": video.source,
            "method": video.method,
            "split": split,
            "video": f"{video.method}/{video.name}",
            "path": video.frames[index],
            "domain": name if video.domain is None else video.domain,
        }
        for video in videos
        for index in evenly_spaced(len(video.frames), per_video or len(video.frames))
    ]
    return pd.DataFrame(rows, columns=["id", "label", "source", "method", "split", "video", "path", "domain"])


def _require_both_classes(name: str, split: str, records: pd.DataFrame, skips: Skips) -> None:
    counts = {label: int(np.sum(records["label"] == label)) for label in (REAL, FAKE)}
    if min(counts.values()) > 0:
        return
    skipped = f", and skipped {skips.summary()}" if len(skips.table()) else ""
    raise DataError(
        f"{name}, split {split!r}: expected images of both classes, but found {counts[REAL]} real and {counts[FAKE]} "
        f"fake images{skipped}; check the folder and the split"
    )
