"""FaceForensics++ on disk: which of two layouts a folder has, and its own layout of frames and splits.

Source: Roessler et al., FaceForensics++ (ICCV 2019), and the tree that its download script makes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gsnr_toolkit.data.base import FAKE, REAL, DataError
from gsnr_toolkit.data.layouts.image_files import IMAGE_SUFFIXES, FileDataset, Skips, Video, natural_key, open_videos

__all__ = ["METHODS", "TREE", "find_tree", "open_faceforensics", "read_frames_layout", "read_split"]

#: The four manipulations by the names that are used here, and their folders.
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
    """Open the real videos and one, or all four, of the manipulations of FaceForensics++.

    The real class is the YouTube originals of the split. ``source`` is the target video, whose frames were
    manipulated: the ``000`` of ``000_003``. A real video and its forgeries thus share a source, and a probe
    draws at most one of them. (``003``, whose face or expression was used, has a source of its own.)

    Args:
        name: ``"df"``, ``"f2f"``, ``"fs"``, ``"nt"``, or ``"ff"`` for all four.
        root: The folder of the data.
        split: ``"train"``, ``"val"`` or ``"test"``: the official 360, 70 and 70 pairs of videos.
        compression: ``"raw"``, ``"c23"`` (light) or ``"c40"`` (strong).
        layout: ``"auto"`` reads DeepfakeBench's JSON lists if ``root`` has them for this data set, and the
            folders of frames otherwise; ``"json"`` and ``"frames"`` insist on one.
        **options: ``frames_per_video``, ``size``, ``seed``, ``verify`` and the image transform, as in
            :func:`gsnr_toolkit.data.layouts.image_files.open_videos`.

    Returns:
        The data set.

    Raises:
        DataError: If the folder has neither layout, or a split file or all videos of a class are missing.
    """
    from gsnr_toolkit.data.layouts import deepfakebench

    _one_of("compression", compression, COMPRESSIONS)
    _one_of("layout", layout, ("auto", "json", "frames"))
    lists = deepfakebench.find_lists(root, deepfakebench.FF_LISTS[name])
    tree = find_tree(root)
    skips = Skips()
    if lists and layout != "frames":
        methods = tuple(METHODS.values()) if name == "ff" else (METHODS[name],)
        videos = deepfakebench.read_lists(lists, root, split, skips, compression, methods)
    elif tree and layout != "json":
        videos = read_frames_layout(tree, tuple(METHODS) if name == "ff" else (name,), split, compression, skips)
    else:
        wanted = {"auto": "neither layout", "json": "no JSON list", "frames": "no original_sequences folder"}
        inside = sorted(path.name for path in root.iterdir())
        listed = ", ".join(inside[:8]) + (", ..." if len(inside) > 8 else "")
        raise DataError(
            f"{root} holds {wanted[layout]} of FaceForensics++ for {name!r}, but: {listed or 'nothing'}. "
            f"Expected\n{TREE}"
        )
    label = "four manipulations" if name == "ff" else METHODS[name]
    caption = f"FaceForensics++ {label} ({compression})"
    return open_videos(name, videos, skips, split=split, caption=caption, **options)


def find_tree(root: Path) -> Path | None:
    """Find the folder that holds ``original_sequences``.

    Args:
        root: The data root.

    Returns:
        ``root`` or its sub-folder ``FaceForensics++``, or None.
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
        DataError: If the file is missing, holds no pairs, or something else.
    """
    candidates = [tree / folder / f"{split}.json" for folder in _WHERE_SPLITS]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise DataError(
            f"the official split {split}.json of FaceForensics++ is in none of "
            f"{', '.join(str(candidate.parent) for candidate in candidates)}: copy train.json, val.json and "
            "test.json there from the folder dataset/splits of the data set's own repository"
        )
    try:
        pairs = [(first, second) for first, second in json.loads(path.read_text(encoding="utf-8"))]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} must hold {_PAIRS}: {error}") from error
    if not all(isinstance(video, str) for pair in pairs for video in pair):
        raise DataError(f"{path} must hold {_PAIRS}, but an id is not text")
    if not pairs:
        raise DataError(f"{path} is an empty split: it lists no pair of videos")
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
        The videos that have frames.

    Raises:
        DataError: If the frames of a whole class are missing.
    """
    pairs = read_split(tree, split)
    originals = _frames_folder(tree / "original_sequences" / "youtube", compression)
    videos = [Video(video, REAL, video, "real", _frames(originals / video, skips)) for pair in pairs for video in pair]
    for method in methods:
        folder = _frames_folder(tree / "manipulated_sequences" / METHODS[method], compression)
        videos += [
            Video(f"{a}_{b}", FAKE, a, METHODS[method], _frames(folder / f"{a}_{b}", skips))
            for first, second in pairs
            for a, b in ((first, second), (second, first))
        ]
    return [video for video in videos if video.frames]


def _frames_folder(folder: Path, compression: str) -> Path:
    # The repository's own extraction script calls the folder "images".
    for word in ("frames", "images"):
        if (folder / compression / word).is_dir():
            return folder / compression / word
    if (folder / compression / "videos").is_dir():
        raise DataError(
            f"{folder / compression} holds videos but no frames: extract the frames of each video, cut out "
            f"the faces, and put them into {folder / compression / 'frames'}/<video>/<number>.png"
        )
    present = [level for level in COMPRESSIONS if (folder / level).is_dir()]
    instead = f"There is {', '.join(present)}: choose it with compression=..." if present else f"Expected\n{TREE}"
    raise DataError(f"no frames in {folder / compression / 'frames'}. {instead}")


def _frames(folder: Path, skips: Skips) -> list[Path]:
    if not folder.is_dir():
        skips.add(folder, "missing video folder")
        return []
    frames = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    if not frames:
        skips.add(folder, "video folder without frames")
    return sorted(frames, key=natural_key)


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"{option} must be one of {', '.join(allowed)}, but got {value!r}")
