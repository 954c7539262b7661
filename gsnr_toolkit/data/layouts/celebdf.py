"""Celeb-DF in its own layout, by its own list of test videos, or by DeepfakeBench's list.

Each line of ``List_of_testing_videos.txt`` is a digit and a path, ``1 YouTube-real/00170.mp4``. The leading
digit 1 means *real*, the opposite of the labels here.

Source: Li et al., Celeb-DF (CVPR 2020).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsnr_toolkit.data.base import FAKE, REAL, DataError
from gsnr_toolkit.data.layouts.deepfakebench import find_lists, open_deepfakebench, refuse_shared_split, target_video
from gsnr_toolkit.data.layouts.image_files import IMAGE_SUFFIXES, FileDataset, Skips, Video, natural_key, open_videos

__all__ = ["CLASSES", "TEST_LIST", "TREE", "open_celebdf", "read_test_list"]

TEST_LIST = "List_of_testing_videos.txt"

#: The folders of videos, and the class of each.
CLASSES = {"Celeb-real": REAL, "YouTube-real": REAL, "Celeb-synthesis": FAKE}

#: How many videos the official test lists name.
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

    Only the test split is official; there is no training list, and DeepfakeBench's holds all videos.

    Args:
        name: The data set's name here.
        list_name: ``"Celeb-DF-v1"`` or ``"Celeb-DF-v2"``.
        root: The folder of the data.
        split: ``"test"``.
        layout: ``"auto"`` reads the data set's own test list where it is, and DeepfakeBench's list otherwise;
            ``"frames"`` and ``"json"`` insist on one.
        **options: As in :func:`gsnr_toolkit.data.layouts.image_files.open_videos`.

    Returns:
        The data set. ``source`` is the target video, so that a real video and its forgeries share one.

    Raises:
        DataError: If another split is asked for, or the data are not there.
    """
    if layout not in ("auto", "json", "frames"):
        raise DataError(f"layout must be one of auto, json, frames, but got {layout!r}")
    refuse_shared_split(list_name, split)
    tree = next((p for p in (root / list_name, root) if (p / TEST_LIST).is_file()), None)
    if layout == "json" or (layout == "auto" and tree is None and find_lists(root, ((list_name,),))):
        return open_deepfakebench(name, list_name=list_name, root=root, split=split, **options)
    if tree is None:
        expected = TREE.replace("{list_name}", list_name)
        raise DataError(f"{root} holds neither {TEST_LIST} nor {list_name}.json of DeepfakeBench. Expected\n{expected}")
    skips = Skips()
    listed = read_test_list(tree / TEST_LIST)
    videos = [video for video in (_video(tree, path, label, list_name, skips) for path, label in listed) if video]
    notes = _count_note(list_name, len(listed))
    return open_videos(name, videos, skips, split=split, caption=list_name, notes=notes, **options)


def read_test_list(path: Path) -> list[tuple[str, int]]:
    """Read the official list of test videos.

    Args:
        path: The file.

    Returns:
        ``(folder/video, label)`` of each line, the label turned round: 0 real, 1 fake.

    Raises:
        DataError: If the list is empty, a line has another form, or its digit and its folder disagree.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        digit, _, video = line.strip().partition(" ")
        video = video.strip().replace("\\", "/")
        folder = video.partition("/")[0]
        if digit not in ("0", "1"):
            raise DataError(f"{path}, line {number} has the unknown label {digit!r}: expected 1 (real) or 0 (fake)")
        if folder not in CLASSES:
            raise DataError(f"{path}, line {number}: unknown folder {folder!r}, expected one of {', '.join(CLASSES)}")
        label = REAL if digit == "1" else FAKE
        if CLASSES[folder] != label:
            raise DataError(
                f"{path}, line {number}: {line.strip()!r} is labelled {digit} but lies in {folder}; in this list 1 "
                "means real. Restore the official file"
            )
        found.append((video, label))
    if not found:
        raise DataError(f"{path} is an empty split: it lists no video")
    return found


def _video(tree: Path, path: str, label: int, list_name: str, skips: Skips) -> Video | None:
    folder, _, file = path.partition("/")
    name = Path(file).stem
    place = next((p for p in (tree / folder / "frames" / name, tree / folder / name) if p.is_dir()), None)
    if place is None:
        skips.add(tree / folder / "frames" / name, "missing video folder")
        return None
    frames = sorted((p for p in place.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
    if not frames:
        skips.add(place, "video folder without frames")
        return None
    method = "real" if label == REAL else list_name
    return Video(name, label, target_video(name, "CelebDF"), method, frames)


def _count_note(list_name: str, count: int) -> tuple[str, ...]:
    official = _OFFICIAL_COUNTS[list_name]
    if count == official:
        return ()
    return (f"{TEST_LIST} names {count} videos; the official list of {list_name} names {official}",)
