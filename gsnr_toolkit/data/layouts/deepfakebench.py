"""DeepfakeBench's JSON lists of preprocessed frames: FaceForensics++ and the sets that it is tested against.

A list has the levels data set, label, split, (compression,) video; a video has ``label`` and ``frames``. The
level of compression exists for the FaceForensics++ family only. Paths may be written with back-slashes, and
with leading folders of the machine that wrote the list.

Source: Yan et al., DeepfakeBench (NeurIPS 2023), ``preprocessing/rearrange.py``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gsnr_toolkit.data.base import FAKE, REAL, DataError
from gsnr_toolkit.data.layouts.image_files import FileDataset, Skips, Video, natural_key, open_videos
from gsnr_toolkit.support.lookup import did_you_mean

__all__ = [
    "FF_LISTS",
    "LABELS",
    "LIST_LABELS",
    "SHARED_SPLITS",
    "TREE",
    "find_lists",
    "open_deepfakebench",
    "read_lists",
    "refuse_shared_split",
    "resolve_prefix",
    "target_video",
]

TREE = """\
ROOT[/dataset_json]/{list_name}.json                  DeepfakeBench's list
ROOT[/rgb]/.../frames/<video>/*.png                   the frames that it names"""

#: Every label of the lists: (0 real or 1 fake, method).
LABELS = {
    "FF-real": (REAL, "real"),
    "FF-DF": (FAKE, "Deepfakes"),
    "FF-F2F": (FAKE, "Face2Face"),
    "FF-FS": (FAKE, "FaceSwap"),
    "FF-NT": (FAKE, "NeuralTextures"),
    "FF-FH": (FAKE, "FaceShifter"),
    "DFD_real": (REAL, "real"),
    "DFD_fake": (FAKE, "DeepFakeDetection"),
    "CelebDFv1_real": (REAL, "real"),
    "CelebDFv1_fake": (FAKE, "Celeb-DF-v1"),
    "CelebDFv2_real": (REAL, "real"),
    "CelebDFv2_fake": (FAKE, "Celeb-DF-v2"),
    "DFDC_Real": (REAL, "real"),
    "DFDC_Fake": (FAKE, "DFDC"),
    "DFDCP_Real": (REAL, "real"),
    "DFDCP_FakeA": (FAKE, "DFDCP-A"),
    "DFDCP_FakeB": (FAKE, "DFDCP-B"),
    "DF_real": (REAL, "real"),
    "DF_fake": (FAKE, "DeeperForensics"),
    "UADFV_Real": (REAL, "real"),
    "UADFV_Fake": (FAKE, "UADFV"),
    "FFIW_real": (REAL, "real"),
    "FFIW_fake": (FAKE, "FFIW"),
}

#: Splits of a list that hold videos of its test split, and in which way; they are refused.
SHARED_SPLITS: Mapping[str, Mapping[str, str]] = {
    "Celeb-DF-v1": {"train": "it lists all videos", "val": "it is a copy of the test list"},
    "Celeb-DF-v2": {"train": "it lists all videos", "val": "it is a copy of the test list"},
    "DFDCP": {"val": "it is a copy of the test list"},
    "DeepFakeDetection": dict.fromkeys(("train", "val"), "every video is in all three splits"),
    "DeeperForensics-1.0": dict.fromkeys(("train", "val"), "the real videos are the same in all three splits"),
    "UADFV": dict.fromkeys(("train", "val"), "every video is in all three splits"),
}

#: The labels of each list of one data set; another label there is an error, even if another list has it.
LIST_LABELS: Mapping[str, tuple[str, ...]] = {
    "FaceShifter": ("FF-real", "FF-FH"),
    "DeepFakeDetection": ("DFD_real", "DFD_fake"),
    "Celeb-DF-v1": ("CelebDFv1_real", "CelebDFv1_fake"),
    "Celeb-DF-v2": ("CelebDFv2_real", "CelebDFv2_fake"),
    "DFDC": ("DFDC_Real", "DFDC_Fake"),
    "DFDCP": ("DFDCP_Real", "DFDCP_FakeA", "DFDCP_FakeB"),
    "DeeperForensics-1.0": ("DF_real", "DF_fake"),
    "UADFV": ("UADFV_Real", "UADFV_Fake"),
    "FFIW": ("FFIW_real", "FFIW_fake"),
}

#: Which lists can serve a name, the best first; for ``ff`` the four single ones together serve as well.
FF_LISTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "df": (("FF-DF",), ("FaceForensics++",)),
    "f2f": (("FF-F2F",), ("FaceForensics++",)),
    "fs": (("FF-FS",), ("FaceForensics++",)),
    "nt": (("FF-NT",), ("FaceForensics++",)),
    "ff": (("FaceForensics++",), ("FF-DF", "FF-F2F", "FF-FS", "FF-NT")),
}

_WHERE_LISTS = (".", "dataset_json", "preprocessing/dataset_json")
_WHERE_FRAMES = (".", "rgb", "datasets", "datasets/rgb", "FaceForensics++")
_WITH_COMPRESSION = ("FF-", "DFD_")


def open_deepfakebench(
    name: str, *, list_name: str, root: Path, split: str, compression: str | None = None, **options: Any
) -> FileDataset:
    """Open a data set from its list.

    Args:
        name: The data set's name here.
        list_name: The list's name, such as ``"Celeb-DF-v2"``.
        root: The folder of the data; the list is in it or in its ``[preprocessing/]dataset_json``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        compression: Level to read, ``"c23"`` if not said; only FaceShifter and DeepFakeDetection have levels.
        **options: As in :func:`gsnr_toolkit.data.layouts.image_files.open_videos`.

    Returns:
        The data set. ``source`` is the video (for FaceForensics++ and Celeb-DF the target video).

    Raises:
        DataError: If the list is missing, a split is asked for that holds test videos (:data:`SHARED_SPLITS`), or
            a level of compression of a data set that has none.
    """
    refuse_shared_split(list_name, split)
    if compression is not None and not LIST_LABELS[list_name][0].startswith(_WITH_COMPRESSION):
        raise DataError(f"{list_name} has no levels of compression: leave compression={compression!r} out")
    lists = find_lists(root, ((list_name,),))
    if not lists:
        places = ", ".join(str(root / folder) for folder in _WHERE_LISTS)
        raise DataError(f"{name} needs DeepfakeBench's list {list_name}.json, which is in none of {places}")
    skips = Skips()
    videos = read_lists(lists, root, split, skips, compression or "c23")
    return open_videos(name, videos, skips, split=split, caption=list_name, **options)


def refuse_shared_split(list_name: str, split: str) -> None:
    """Refuse to train or select on videos that the test split holds.

    Args:
        list_name: The list's name.
        split: What was asked for.

    Raises:
        DataError: If :data:`SHARED_SPLITS` names this split.

    >>> refuse_shared_split("UADFV", "val")
    Traceback (most recent call last):
    gsnr_toolkit.data.base.DataError: the val list of UADFV contains its test videos (every video is in all ...
    """
    reason = SHARED_SPLITS.get(list_name, {}).get(split)
    if reason is not None:
        use = "train" if split == "train" else "select models"
        raise DataError(
            f"the {split} list of {list_name} contains its test videos ({reason}): open split='test' only, and {use} "
            "on another data set, such as 'ff'"
        )


def find_lists(root: Path, alternatives: Sequence[Sequence[str]]) -> list[Path]:
    """Find the JSON lists that serve a data set.

    Args:
        root: The data root.
        alternatives: Names of lists; the first alternative of which all files exist is taken.

    Returns:
        Paths, or an empty list.
    """
    for names in alternatives:
        for folder in _WHERE_LISTS:
            paths = [root / folder / f"{name}.json" for name in names]
            if all(path.is_file() for path in paths):
                return paths
    return []


def read_lists(
    lists: Sequence[Path],
    root: Path,
    split: str,
    skips: Skips,
    compression: str = "c23",
    methods: Collection[str] | None = None,
) -> list[Video]:
    """Read the videos of one split.

    Args:
        lists: JSON files; a video that occurs in several is read once.
        root: The folder that the paths inside start from.
        split: ``"train"``, ``"val"`` or ``"test"``.
        skips: Entries that are no videos, or have no frames, are noted here.
        compression: Level to read where the list has levels.
        methods: Read only the real videos and these forgeries; None reads all.

    Returns:
        The videos, frames in natural order.

    Raises:
        DataError: If a file is not such a list, a label is unknown, or split or level are missing.
    """
    entries: dict[tuple[str, str], Mapping[str, Any]] = {}
    for path in lists:
        for label, splits in _labels_of(path, methods).items():
            for name, entry in _entries(path, label, splits, split, compression, skips):
                entries.setdefault((label, name), entry)
    prefix, drop = resolve_prefix([entry["frames"][0] for entry in entries.values()], root)
    return [
        Video(
            name=name,
            label=LABELS[label][0],
            source=target_video(name, label),
            method=LABELS[label][1],
            frames=sorted((_join(prefix, frame, drop) for frame in entry["frames"]), key=natural_key),
        )
        for (label, name), entry in entries.items()
    ]


def target_video(name: str, label: str) -> str:
    """Name the video that a forgery was made on: it shows the same scene, so the two are not independent.

    Args:
        name: The video's name.
        label: Its label in the list.

    Returns:
        For FaceForensics++ ``000_003 -> 000``, for Celeb-DF ``id0_id1_0002 -> id0_0002``, else the name.

    >>> target_video("000_003", "FF-NT"), target_video("id0_id1_0002", "CelebDFv2_fake"), target_video("a_b", "DF_fake")
    ('000', 'id0_0002', 'a_b')
    """
    parts = name.split("_")
    if label.startswith("FF-"):
        return parts[0]
    if label.startswith("CelebDF") and len(parts) == 3:
        return f"{parts[0]}_{parts[2]}"
    return name


def _entries(
    path: Path, label: str, splits: Any, split: str, compression: str, skips: Skips
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # Yields (video name, entry) of everything under a label that is a video with frames.
    if not isinstance(splits, Mapping) or not isinstance(splits.get(split), Mapping):
        have = ", ".join(splits) if isinstance(splits, Mapping) else type(splits).__name__
        raise DataError(f"{path} has no split {split!r} for {label}; it has: {have or 'none'}")
    videos = splits[split]
    where = f"{path.name}: {label}/{split}"
    if "frames" in videos:  # seen in lists of DFDC: one video's entry in the place of all videos
        skips.add(where, "one bare entry in the place of a table of videos")
        return
    if label.startswith(_WITH_COMPRESSION):
        if compression not in videos:
            have = ", ".join(videos) or "none"
            raise DataError(f"{where} has no compression level {compression!r}; it has: {have}")
        videos = videos[compression]
    for name, entry in videos.items():
        reason = _why_not(entry, label, path)
        if reason is None:
            yield name, entry
        else:
            skips.add(f"{where}/{name}", reason)


def _labels_of(path: Path, methods: Collection[str] | None) -> dict[str, Any]:
    # The level of labels of a list: the real ones, and the forgeries that are wanted.
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}): copy or generate it again") from error
    if isinstance(content, Mapping) and path.stem in content:
        content = content[path.stem]
    elif isinstance(content, Mapping) and len(content) == 1:
        content = next(iter(content.values()))
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{path} must hold {{data set: {{label: {{split: {{video: ...}}}}}}}}")
    known = LIST_LABELS.get(path.stem, tuple(LABELS))
    for label in content:
        if label not in known:
            meant = did_you_mean(label, known)
            raise DataError(f"{path} has the unknown label {label!r}.{meant} Known: {', '.join(known)}")
    wanted = {label for label, (kind, method) in LABELS.items() if kind == REAL or methods is None or method in methods}
    return {label: splits for label, splits in content.items() if label in wanted}


def _why_not(entry: Any, label: str, path: Path) -> str | None:
    # The reason why an entry cannot be used, or None; a label that nobody knows is an error.
    if not isinstance(entry, Mapping) or "frames" not in entry:
        return "entry without frames"
    if entry.get("label", label) not in LABELS:
        unknown = entry["label"]
        raise DataError(f"{path} has the unknown label {unknown!r}.{did_you_mean(str(unknown), LABELS)}")
    if entry.get("label", label) != label:
        return f"labelled otherwise than its group {label}"
    return None if entry["frames"] else "video without frames"


def _parts(frame: str) -> tuple[str, ...]:
    """Return a path's parts, whichever way its slashes lean."""
    return PurePosixPath(frame.replace("\\", "/")).parts


def _join(prefix: Path, frame: str, drop: int) -> Path:
    return prefix.joinpath(*_parts(frame)[drop:])


def resolve_prefix(frames: Sequence[str], root: Path) -> tuple[Path, int]:
    r"""Find how the paths of a list lead to files: leading folders that are not below ``root`` are dropped.

    Tried is, below ``root`` and its sub-folders ``rgb``, ``datasets``, ``datasets/rgb`` and
    ``FaceForensics++``, the path with 0, 1, 2, ... leading parts dropped. The first combination under which
    one of (up to 50, evenly spread) frames exists is used for all; an absolute path that exists is kept.

    Args:
        frames: Paths as written in the list, one per video.
        root: The data root.

    Returns:
        ``(folder, number of leading parts to drop)``; a path then is ``folder / parts[number:]``.

    Raises:
        DataError: If no combination leads to a file.
    """
    sample = [_parts(frame) for frame in frames[:: max(1, len(frames) // 50)]]
    if not sample:
        return root, 0
    deepest = max(len(parts) for parts in sample)
    for drop in range(deepest):
        for folder in _WHERE_FRAMES:
            base = root / folder
            if any(len(parts) > drop and base.joinpath(*parts[drop:]).is_file() for parts in sample):
                return base, drop
    raise DataError(
        f"none of the frames that the list names was found below {root}. The first is {frames[0]!r}; "
        f"expected, for example, {root.joinpath(*_parts(frames[0])[-6:])}"
    )
