"""Images on disk: which frames of a video, whether a file can be read, and a data set that reads them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gsnr_toolkit.data.base import FAKE, REAL, DataError, ForgeryDataset, probe_indices
from gsnr_toolkit.errors import ProbeWarning

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IMAGE_SUFFIXES", "FileDataset", "Skips", "Video", "evenly_spaced", "natural_key", "open_videos"]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Video:
    """The frames of one video, or any set of images that are not independent of each other.

    Attributes:
        name: Name of the video, unique together with ``method``.
        label: 0 real, 1 fake.
        source: The unit of independence.
        method: ``"real"`` or the forgery's name.
        frames: The images, in order.
        domain: The test set that a row of a table is about, where one data set holds several; None where the
            data set is one.
    """

    name: str
    label: int
    source: str
    method: str
    frames: Sequence[Path]
    domain: str | None = None


class Skips:
    """What was left out and why; told once, by count, when the data set is ready."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str]] = []

    def add(self, path: object, reason: str) -> None:
        """Note one thing that was left out.

        Args:
            path: The file, folder or entry.
            reason: Why, in a few words; equal reasons are counted together.
        """
        self._rows.append((str(path), reason))

    def table(self) -> pd.DataFrame:
        """Return everything noted, columns ``path`` and ``reason``."""
        return pd.DataFrame(self._rows, columns=["path", "reason"], dtype=str)

    def summary(self) -> str:
        """Return the counts by reason, most frequent first, with an example of each."""
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


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that puts frame 2 before frame 10, whether or not the numbers are zero-padded.

    Args:
        path: A file.

    Returns:
        The name's digits as numbers and the rest as text.

    >>> [path.name for path in sorted([Path("10.png"), Path("2.png")], key=natural_key)]
    ['2.png', '10.png']
    """
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts]


def evenly_spaced(total: int, count: int) -> list[int]:
    """Choose ``count`` of ``total`` frames, at the centres of equal stretches of the video.

    One frame is thus the middle one. (Several published loaders take the first ``count`` frames, or every
    ``total // count``-th from the first.)

    Args:
        total: Frames there are.
        count: Frames wanted; all of them if there are not more.

    Returns:
        Indices in rising order.

    >>> evenly_spaced(300, 1), evenly_spaced(10, 3), evenly_spaced(2, 8)
    ([150], [1, 5, 8], [0, 1])
    """
    if count >= total:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def unreadable(path: Path) -> str | None:
    """Find out whether an image file can be decoded, without decoding all of it where that is not needed.

    PNG: all chunks are read and their checksums compared. JPEG: decoded at an eighth of the size, which
    reads the whole stream. Others are decoded.

    Args:
        path: The file.

    Returns:
        None if it can be read, else the reason.

    >>> unreadable(Path("nowhere.png"))
    'missing file'
    """
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        return "missing file"
    if path.stat().st_size == 0:
        return "empty file"
    try:
        with Image.open(path) as image:
            if image.format == "PNG":
                image.verify()
            else:
                image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
    except UnidentifiedImageError:
        return "not an image"
    except (OSError, SyntaxError, ValueError):  # Pillow raises all three, for a cut-off PNG the second
        return "broken image"
    return None


class FileDataset(ForgeryDataset):
    """A :class:`ForgeryDataset` whose records have a column ``path``, the image file of each item."""

    def load_image(self, index: int) -> Image.Image:
        """Read the image of item ``index`` from its file.

        Args:
            index: Row number.

        Returns:
            The decoded image.

        Raises:
            DataError: If the file cannot be read now, though it was there when the data set was opened. No
                other image is ever put in its place.
        """
        from PIL import Image

        path = self.records["path"].iloc[index]
        try:
            with Image.open(path) as image:
                image.load()
                return image
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(
                f"cannot read item {index} of {self.name}: {path} ({error}). Open the data set with "
                "verify=True to leave unreadable files out, or restore the file"
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
    """Turn videos into a data set: choose frames, leave out what cannot be read, and say so.

    Args:
        name: The data set's name.
        videos: The videos of both classes.
        skips: What the layout left out so far; unreadable frames are added.
        split: The name of the split.
        frames_per_video: Evenly spaced frames to take of each video; None takes all. One is right for a
            probe: frames of one video are correlated.
        size: Keep at most this many items, drawn class-balanced by ``seed``; None keeps all.
        seed: Of that draw.
        verify: Check that every chosen file can be decoded.
        caption: The data set's proper name.
        notes: Sentences for the report.
        **transform: ``image_size``, ``mean``, ``std``, ``fit``.

    Returns:
        The data set; its ``skipped`` table lists what was left out. Beside the usual columns its records have
        ``video``, ``path`` and ``domain`` (the data set's name, unless the videos say otherwise).

    Raises:
        DataError: If ``frames_per_video`` is not positive, or nothing, or only one class, is left.
    """
    if frames_per_video is not None and frames_per_video < 1:
        raise DataError(f"frames_per_video must be at least 1, but got {frames_per_video}")
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
    left_out = f" Skipped: {skips.summary()}." if len(skips.table()) else ""
    raise DataError(
        f"{name}, split {split!r}: {counts[REAL]} real and {counts[FAKE]} fake images were found, but both "
        f"classes are needed.{left_out}"
    )
