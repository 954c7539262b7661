"""FaceForensics++: its own layout of frames and official splits, or DeepfakeBench's lists.

Source: Roessler et al., FaceForensics++ (ICCV 2019), and the folder tree that its download script creates.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from gsnr_toolkit.data.base import FAKE, REAL
from gsnr_toolkit.data.checks import DataError, check_choice, refuse_missing
from gsnr_toolkit.data.layouts.deepfakebench import FF_LISTS, LAYOUTS, find_lists, read_lists
from gsnr_toolkit.data.layouts.image_files import FileDataset, Skips, Video, frames_of, open_videos

__all__ = ["METHODS", "TREE", "find_tree", "open_faceforensics", "read_frames_layout", "read_split"]

#: The four manipulations: their names here, and their folders.
METHODS = {"df": "Deepfakes", "f2f": "Face2Face", "fs": "FaceSwap", "nt": "NeuralTextures"}

COMPRESSIONS = ("raw", "c23", "c40")

TREE = """\
ROOT[/FaceForensics++]/
    train.json  val.json  test.json                 the official splits: lists of [id, id]
    original_sequences/youtube/c23/frames/000/*.png
    manipulated_sequences/NeuralTextures/c23/frames/000_003/*.png
or, with DeepfakeBench's lists, ROOT[/dataset_json]/FF-NT.json or FaceForensics++.json"""

_PAIRS = 'a list of pairs of video ids such as [["953", "974"], ...]'
_WHERE_SPLITS = (".", "splits", "dataset/splits")


def open_faceforensics(
    name: str,
    *,
    root: Path,
    split: str,
    compression: str = "c23",
    layout: str = "auto",
    **options: Any,
) -> FileDataset:
    """Open the real videos of FaceForensics++ and one of its four manipulations, or all four.

    The real class consists of the YouTube originals of the split. ``source`` is the target video, whose frames were
    manipulated: ``000`` for the forgery ``000_003``. A real video and its forgeries therefore share a source, and a
    probe draws at most one of them. (``003``, which lent the face or the expression, is another source.)

    Args:
        name: ``"df"``, ``"f2f"``, ``"fs"``, ``"nt"``, or ``"ff"`` for all four.
        root: The folder of the data.
        split: ``"train"``, ``"val"`` or ``"test"``: the official 360, 70 and 70 pairs of videos.
        compression: ``"raw"``, ``"c23"`` (light) or ``"c40"`` (strong).
        layout: ``"auto"`` reads DeepfakeBench's JSON lists if ``root`` has them for this data set, else the folders
            of frames; ``"json"`` and ``"frames"`` insist on one of them.
        **options: ``frames_per_video``, ``size``, ``seed``, ``verify`` and the image transform, as in
            :func:`gsnr_toolkit.data.layouts.image_files.open_videos`.

    Returns:
        The data set.

    Raises:
        DataError: If the folder has neither layout, or if a split file or all videos of a class are missing.
    """
    check_choice("compression", compression, COMPRESSIONS)
    check_choice("layout", layout, LAYOUTS)
    lists = find_lists(root, FF_LISTS[name])
    tree = find_tree(root)
    skips = Skips()
    if lists and layout != "frames":
        methods = tuple(METHODS.values()) if name == "ff" else (METHODS[name],)
        videos = read_lists(lists, root, split, skips, compression, methods)
    elif tree and layout != "json":
        videos = read_frames_layout(tree, tuple(METHODS) if name == "ff" else (name,), split, compression, skips)
    else:
        wanted = {"auto": "either layout", "json": "a JSON list", "frames": "a folder original_sequences"}
        inside = sorted(path.name for path in root.iterdir())
        listed = ", ".join(inside[:8]) + (", ..." if len(inside) > 8 else "")
        problem = f"{root} holds {listed or 'nothing'}"
        refuse_missing(f"{wanted[layout]} of FaceForensics++ for {name!r}", problem, TREE)
    label = "four manipulations" if name == "ff" else METHODS[name]
    caption = f"FaceForensics++ {label} ({compression})"
    return open_videos(name, videos, skips, split=split, caption=caption, **options)


def find_tree(root: Path) -> Path | None:
    """Find the folder that holds ``original_sequences``.

    Args:
        root: The data root.

    Returns:
        ``root``, its sub-folder ``FaceForensics++``, or None.
    """
    return next((p for p in (root, root / "FaceForensics++") if (p / "original_sequences").is_dir()), None)


def read_split(tree: Path, split: str) -> list[tuple[str, str]]:
    """Read an official split.

    Args:
        tree: The folder that holds ``original_sequences``.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Returns:
        Pairs of video ids; the forgeries of a pair ``(a, b)`` are ``a_b`` and ``b_a``.

    Raises:
        DataError: If the file is missing, or does not hold a list of pairs.
    """
    candidates = [tree / folder / f"{split}.json" for folder in _WHERE_SPLITS]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise DataError(
            f"expected the official split {split}.json of FaceForensics++, but it is in none of "
            f"{', '.join(str(candidate.parent) for candidate in candidates)}; copy train.json, val.json and test.json "
            "there from the folder dataset/splits of the data set's repository"
        )
    pairs: list[tuple[str, str]] = []
    try:
        pairs = [(first, second) for first, second in json.loads(path.read_text(encoding="utf-8-sig"))]
        problem = "" if pairs else "it lists no pair"
    except (TypeError, ValueError) as error:
        problem = str(error)
    if not all(isinstance(video, str) for pair in pairs for video in pair):
        problem = "an id is not text"
    if problem:
        raise DataError(f"expected {path} to hold {_PAIRS}, but {problem}; copy the official file again")
    return pairs


def read_frames_layout(tree: Path, methods: tuple[str, ...], split: str, compression: str, skips: Skips) -> list[Video]:
    """List the videos of a split in FaceForensics++'s own folders.

    Args:
        tree: The folder that holds ``original_sequences``.
        methods: Keys of :data:`METHODS`.
        split: ``"train"``, ``"val"`` or ``"test"``.
        compression: ``"raw"``, ``"c23"`` or ``"c40"``.
        skips: Videos without frames are noted here.

    Returns:
        The videos; those without frames have an empty list.

    Raises:
        DataError: If the frames of a whole class are missing.
    """
    pairs = read_split(tree, split)
    originals = _frames_folder(tree / "original_sequences" / "youtube", compression)
    videos = [Video(v, REAL, v, "real", frames_of([originals / v], skips)) for pair in pairs for v in pair]
    for method in methods:
        folder = _frames_folder(tree / "manipulated_sequences" / METHODS[method], compression)
        videos += [
            Video(f"{a}_{b}", FAKE, a, METHODS[method], frames_of([folder / f"{a}_{b}"], skips))
            for first, second in pairs
            for a, b in ((first, second), (second, first))
        ]
    return videos


def _frames_folder(folder: Path, compression: str) -> Path:
    """Find the folder of a class's frames at a level of compression."""
    # The extraction script of the data set's repository calls the folder "images".
    level = folder / compression
    found = next((level / word for word in ("frames", "images") if (level / word).is_dir()), None)
    if found is None:
        _refuse_missing_frames(folder, compression)
    return found


def _refuse_missing_frames(folder: Path, compression: str) -> NoReturn:
    wanted = folder / compression / "frames"
    if (folder / compression / "videos").is_dir():
        raise DataError(
            f"expected frames in {wanted}, but there are videos only; extract the frames of each video, crop the "
            f"faces, and put them into {wanted}/<video>/<number>.png"
        )
    present = ", ".join(level for level in COMPRESSIONS if (folder / level).is_dir())
    problem = f"there is only {present}, to be chosen with compression=..." if present else "there is no such folder"
    refuse_missing(f"frames in {wanted}", problem, TREE)
