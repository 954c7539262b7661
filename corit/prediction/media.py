"""Input of ``corit predict``: images, folders, patterns and videos, read as frames, or as the reason why not."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gsnr_toolkit.data.images import IMAGE_SUFFIXES, is_hidden, is_image, read_image
from gsnr_toolkit.data.layouts.image_files import evenly_spaced
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.lookup import did_you_mean

if TYPE_CHECKING:
    from corit.prediction.crop import Cropper

__all__ = ["VIDEO_SUFFIXES", "Frame", "find_inputs", "read_frames"]

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})


@dataclass(frozen=True)
class Frame:
    """A still image, or a frame of a video.

    Attributes:
        path: The file.
        index: Number of the frame; None for a still image.
        pixels: (H, W, 3) uint8, RGB, after cropping; None if there is nothing to score.
        note: Why there is nothing to score, or what was done to the image.
        width: Width of the scored image in pixels, before resizing to the detector's square.
        height: Its height.
    """

    path: Path
    index: int | None
    pixels: NDArray[np.uint8] | None
    note: str = ""
    width: int = 0
    height: int = 0


def find_inputs(given: Sequence[str | Path]) -> list[Path]:
    """Return the files named by files, folders and patterns, without repetition, in the order given.

    A folder stands for all images and videos in and below it, and a pattern such as ``"shots/*.png"`` for those that
    match it, both sorted.

    Raises:
        ProbeError: If something does not exist, contains no image or video, or is of another kind.

    >>> find_inputs(["nowhere.png"])
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected an image, a video or a folder, but nowhere.png does not exist; ...
    """
    if not given:
        raise ProbeError("expected at least one image, video, folder or pattern, got none; name one")
    found: dict[Path, None] = {}
    for item in given:
        found.update(dict.fromkeys(_expanded(str(item))))
    return list(found)


def _expanded(text: str) -> list[Path]:
    path = Path(text).expanduser()
    if path.is_dir():
        inside = sorted(
            file
            for file in path.rglob("*")
            if _kind(file) and not any(map(is_hidden, file.relative_to(path).parts)) and file.is_file()
        )
        if not inside:
            raise ProbeError(f"expected images or videos in {path}, got none; {_known()}")
        return inside
    if path.is_file():
        if not _kind(path):
            raise ProbeError(f"expected an image or a video, got {path}; {_known()}")
        return [path]
    if glob.has_magic(text):
        matching = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        files = [file for file in matching if file.is_file() and _kind(file)]
        if not files:
            raise ProbeError(
                f"expected images or videos that match {text!r}, got {len(matching)} other files; {_known()}"
            )
        return files
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ProbeError(
        f"expected an image, a video or a folder, but {text} does not exist; check the path."
        f"{did_you_mean(path.name, beside)}"
    )


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    return "image" if is_image(path) else "video" if suffix in VIDEO_SUFFIXES and not is_hidden(path) else ""


def _known() -> str:
    images, videos = (", ".join(sorted(suffixes)) for suffixes in (IMAGE_SUFFIXES, VIDEO_SUFFIXES))
    return f"give images ({images}) or videos ({videos})"


def read_frames(path: Path, *, frames_per_video: int = 16, cropper: Cropper | None = None) -> Iterator[Frame]:
    """Yield an image, or evenly spaced frames of a video.

    An unreadable image, or one in which ``cropper`` finds no face, has no pixels but a note with the reason.
    """
    pictures = _video(path, frames_per_video) if _kind(path) == "video" else _image(path)
    for frame in pictures:
        if frame.pixels is None or cropper is None:
            yield frame
            continue
        cut = cropper(frame.pixels)
        note = "no face found" if cut is None else "cropped to the face"
        yield Frame(path, frame.index, cut, "; ".join(filter(None, (frame.note, note))))


def _image(path: Path) -> Iterator[Frame]:
    from PIL import UnidentifiedImageError

    try:
        picture = read_image(path)
    except UnidentifiedImageError:
        yield Frame(path, None, None, "not an image, despite its name")
    except (OSError, SyntaxError, ValueError) as error:
        yield Frame(path, None, None, f"broken image ({error})")
    else:
        yield Frame(path, None, np.array(picture), "transparency ignored" if picture.info.get("alpha") else "")


def _video(path: Path, wanted: int) -> Iterator[Frame]:
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        if total < 1:
            yield Frame(path, None, None, "not a video that OpenCV can read, or a video without frames")
            return
        chosen = set(evenly_spaced(total, wanted))
        # read all frames up to the last: in some files, seeking lands on key frames
        for index in range(max(chosen) + 1):
            good = capture.grab()
            if index not in chosen:
                continue
            good, image = capture.retrieve() if good else (False, None)
            if good and image is not None:
                yield Frame(path, index, np.ascontiguousarray(image[:, :, ::-1]).astype(np.uint8))
            else:
                yield Frame(path, index, None, "frame that cannot be decoded")
    finally:
        capture.release()
