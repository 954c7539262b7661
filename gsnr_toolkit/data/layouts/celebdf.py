"""Celeb-DF: its own layout with its official list of test videos, or DeepfakeBench's list.

Each line of ``List_of_testing_videos.txt`` is a digit and a path, such as ``1 YouTube-real/00170.mp4``. The digit 1
means *real*, the opposite of the labels here.

Source: Li et al., Celeb-DF (CVPR 2020).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsnr_toolkit.data.base import FAKE, REAL
from gsnr_toolkit.data.checks import DataError, check_choice, refuse_missing
from gsnr_toolkit.data.layouts.deepfakebench import (
    LAYOUTS,
    find_lists,
    open_deepfakebench,
    refuse_shared_split,
    target_video,
)
from gsnr_toolkit.data.layouts.image_files import FileDataset, Skips, Video, frames_of, open_videos

__all__ = ["CLASSES", "TEST_LIST", "TREE", "open_celebdf", "read_test_list"]

TEST_LIST = "List_of_testing_videos.txt"

#: The folders of videos, and the class of each.
CLASSES = {"Celeb-real": REAL, "YouTube-real": REAL, "Celeb-synthesis": FAKE}

#: Number of videos in the official test lists.
_OFFICIAL_COUNTS = {"Celeb-DF-v1": 100, "Celeb-DF-v2": 518}

TREE = """\
ROOT[/{list_name}]/
    List_of_testing_videos.txt                        lines such as "1 YouTube-real/00170.mp4", 1 = real
    Celeb-real/[frames/]id0_0001/*.png
    YouTube-real/[frames/]00170/*.png
    Celeb-synthesis/[frames/]id0_id1_0001/*.png
or, with DeepfakeBench's list, ROOT[/dataset_json]/{list_name}.json"""


def open_celebdf(
    name: str, *, list_name: str, root: Path, split: str, layout: str = "auto", **options: Any
) -> FileDataset:
    """Open the test videos of Celeb-DF.

    Only the test split is official: there is no training list, and DeepfakeBench's training list holds all videos.

    Args:
        name: The data set's name here.
        list_name: ``"Celeb-DF-v1"`` or ``"Celeb-DF-v2"``.
        root: The folder of the data.
        split: ``"test"``.
        layout: ``"auto"`` reads the official test list if it exists, else DeepfakeBench's list; ``"frames"`` and
            ``"json"`` insist on one of them.
        **options: As in :func:`gsnr_toolkit.data.layouts.image_files.open_videos`.

    Returns:
        The data set. ``source`` is the target video, so that a real video and its forgeries share one.

    Raises:
        DataError: If another split is requested, or the data cannot be found.
    """
    check_choice("layout", layout, LAYOUTS)
    refuse_shared_split(list_name, split)
    tree = next((p for p in (root / list_name, root) if (p / TEST_LIST).is_file()), None)
    if layout == "json" or (layout == "auto" and tree is None and find_lists(root, ((list_name,),))):
        return open_deepfakebench(name, list_name=list_name, root=root, split=split, **options)
    if tree is None:
        wanted = f"{TEST_LIST} or DeepfakeBench's {list_name}.json"
        refuse_missing(wanted, f"{root} holds neither", TREE.replace("{list_name}", list_name))
    skips = Skips()
    listed = read_test_list(tree / TEST_LIST)
    videos = [_video(tree, path, label, list_name, skips) for path, label in listed]
    notes = _count_note(list_name, len(listed))
    return open_videos(name, videos, skips, split=split, caption=list_name, notes=notes, **options)


def read_test_list(path: Path) -> list[tuple[str, int]]:
    """Read the official list of test videos.

    Args:
        path: The file.

    Returns:
        ``(folder/video, label)`` per line, with the labels used here: 0 real, 1 fake.

    Raises:
        DataError: If the list is empty, a line has another form, or its digit contradicts its folder.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            found.append(_read_line(line.strip(), f"{path}, line {number}"))
    if not found:
        raise DataError(f"expected {path} to list the test videos, got an empty list; restore the official file")
    return found


def _read_line(line: str, where: str) -> tuple[str, int]:
    digit, _, video = line.partition(" ")
    video = video.strip().replace("\\", "/")
    folder = video.partition("/")[0]
    if digit not in ("0", "1"):
        raise DataError(f"{where}: expected the label 1 (real) or 0 (fake), got {digit!r}; restore the official file")
    check_choice(f"the folder in {where}", folder, CLASSES)
    label = REAL if digit == "1" else FAKE
    if CLASSES[folder] != label:
        raise DataError(
            f"{where}: expected the label {1 - int(digit)} for a video in {folder}, since 1 means real in this list, "
            f"got {line!r}; restore the official file"
        )
    return video, label


def _video(tree: Path, path: str, label: int, list_name: str, skips: Skips) -> Video:
    """List the frames of a video; a skipped video has none, and adds nothing to the data set."""
    folder, _, file = path.partition("/")
    name = Path(file).stem
    frames = frames_of((tree / folder / "frames" / name, tree / folder / name), skips)
    return Video(name, label, target_video(name, "CelebDF"), "real" if label == REAL else list_name, frames)


def _count_note(list_name: str, count: int) -> tuple[str, ...]:
    official = _OFFICIAL_COUNTS[list_name]
    if count == official:
        return ()
    return (f"{TEST_LIST} names {count} videos; the official list of {list_name} names {official}",)
