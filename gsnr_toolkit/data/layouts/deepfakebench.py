"""DeepfakeBench's JSON lists of preprocessed frames: FaceForensics++ and the data sets used to test on.

The levels of a list are data set, label, split, (compression,) video; a video has ``label`` and ``frames``. Only
the FaceForensics++ family has the level of compression. Paths may contain backslashes, and leading folders of the
machine on which the list was written.

Source: Yan et al., DeepfakeBench (NeurIPS 2023), ``preprocessing/rearrange.py``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from gsnr_toolkit.data.base import FAKE, REAL
from gsnr_toolkit.data.checks import DataError, check_choice
from gsnr_toolkit.data.images import is_hidden
from gsnr_toolkit.data.layouts.image_files import FileDataset, Skips, Video, natural_key, open_videos

__all__ = [
    "FF_LISTS",
    "LABELS",
    "LAYOUTS",
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

#: Choices of ``layout`` for a data set that may lie on disk as such a list or in folders of frames.
LAYOUTS = ("auto", "json", "frames")

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

#: Splits of a list that contain videos of its test split, and how; they are refused.
SHARED_SPLITS: Mapping[str, Mapping[str, str]] = {
    "Celeb-DF-v1": {"train": "it lists all videos", "val": "it is a copy of the test list"},
    "Celeb-DF-v2": {"train": "it lists all videos", "val": "it is a copy of the test list"},
    "DFDCP": {"val": "it is a copy of the test list"},
    "DeepFakeDetection": dict.fromkeys(("train", "val"), "every video is in all three splits"),
    "DeeperForensics-1.0": dict.fromkeys(("train", "val"), "the real videos are the same in all three splits"),
    "UADFV": dict.fromkeys(("train", "val"), "every video is in all three splits"),
}

#: The labels of each list. Any other label is an error there, even if it occurs in another list.
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

#: The lists that serve each name, the best first; for ``ff`` the four single lists together serve as well.
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
        compression: Level to read, ``"c23"`` by default; only FaceShifter and DeepFakeDetection have levels.
        **options: As in :func:`gsnr_toolkit.data.layouts.image_files.open_videos`.

    Returns:
        The data set. ``source`` is the video (for FaceForensics++ and Celeb-DF the target video).

    Raises:
        DataError: If the list is missing, the split contains test videos (:data:`SHARED_SPLITS`), or a level of
            compression is given for a data set without levels.
    """
    refuse_shared_split(list_name, split)
    if compression is not None and not LIST_LABELS[list_name][0].startswith(_WITH_COMPRESSION):
        raise DataError(
            f"expected no compression for {list_name}, which has no levels of it, got {compression!r}; leave it out"
        )
    lists = find_lists(root, ((list_name,),))
    if not lists:
        places = ", ".join(str(root / folder) for folder in _WHERE_LISTS)
        raise DataError(
            f"expected DeepfakeBench's list {list_name}.json for {name}, but it is in none of {places}; copy it"
        )
    skips = Skips()
    videos = read_lists(lists, root, split, skips, compression or "c23")
    return open_videos(name, videos, skips, split=split, caption=list_name, **options)


def refuse_shared_split(list_name: str, split: str) -> None:
    """Refuse a split for training or model selection that contains test videos.

    Args:
        list_name: The list's name.
        split: The requested split.

    Raises:
        DataError: If :data:`SHARED_SPLITS` names this split.

    >>> refuse_shared_split("UADFV", "val")
    Traceback (most recent call last):
    gsnr_toolkit.data.checks.DataError: expected split='test' of UADFV, got 'val', whose list contains its test ...
    """
    reason = SHARED_SPLITS.get(list_name, {}).get(split)
    if reason is not None:
        use = "train" if split == "train" else "select models"
        raise DataError(
            f"expected split='test' of {list_name}, got {split!r}, whose list contains its test videos ({reason}); "
            f"open split='test' only, and {use} on another data set, such as 'ff'"
        )


def find_lists(root: Path, alternatives: Sequence[Sequence[str]]) -> list[Path]:
    """Find the JSON lists that serve a data set.

    Args:
        root: The data root.
        alternatives: Alternatives, each one or several names of lists.

    Returns:
        The paths of the first alternative whose files all exist, or an empty list.
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
        lists: JSON files; a video that occurs in several of them is read once.
        root: The folder to which the paths in the lists refer.
        split: ``"train"``, ``"val"`` or ``"test"``.
        skips: Entries that are not videos, or have no frames, are noted here.
        compression: Level to read where the list has levels.
        methods: Read only the real videos and these forgeries; None reads all.

    Returns:
        The videos, with their frames in natural order.

    Raises:
        DataError: If a file is not such a list, a label is unknown, or the split or level is missing.
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
            frames=sorted((_join(prefix, frame, drop) for frame in _shown(entry["frames"])), key=natural_key),
        )
        for (label, name), entry in entries.items()
    ]


def target_video(name: str, label: str) -> str:
    """Name the target video of a forgery. Both show the same scene, so they are not independent.

    Args:
        name: The video's name.
        label: Its label in the list.

    Returns:
        ``000`` for ``000_003`` of FaceForensics++, ``id0_0002`` for ``id0_id1_0002`` of Celeb-DF, else the name.

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
    """Yield the name and entry of every video with frames under a label."""
    usable = {key: part for key, part in splits.items() if isinstance(part, Mapping)} if _is_table(splits) else {}
    check_choice(f"the split of {label} in {path}", split, usable)
    videos = usable[split]
    where = f"{path.name}: {label}/{split}"
    if "frames" in videos:  # occurs in lists of DFDC: the entry of one video instead of a table of videos
        skips.add(where, "one bare entry in place of a table of videos")
        return
    if label.startswith(_WITH_COMPRESSION):
        check_choice(f"the compression level in {where}", compression, videos)
        videos = videos[compression]
    for name, entry in videos.items():
        reason = _why_not(entry, label, path)
        if reason is None:
            yield name, entry
        else:
            skips.add(f"{where}/{name}", reason)


def _labels_of(path: Path, methods: Collection[str] | None) -> dict[str, Any]:
    """Read a list down to its labels: those of real videos, and those of the given forgeries."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"expected valid JSON in {path}, but {error}; copy or generate the list again") from error
    if _is_table(content):  # the data set is usually called like its file, but a renamed file serves as well
        content = content.get(path.stem, next(iter(content.values())) if len(content) == 1 else content)
    if not _is_table(content):
        raise DataError(
            f"expected {path} to hold {{data set: {{label: {{split: {{video: ...}}}}}}}}, got {str(content)[:60]!r}; "
            "copy or generate the list again"
        )
    for label in content:
        check_choice(f"each label in {path}", label, LIST_LABELS.get(path.stem, LABELS))
    wanted = {label for label, (kind, method) in LABELS.items() if kind == REAL or methods is None or method in methods}
    return {label: splits for label, splits in content.items() if label in wanted}


def _why_not(entry: Any, label: str, path: Path) -> str | None:
    """Return the reason why an entry cannot be used, or None; an unknown label is an error."""
    if not isinstance(entry, Mapping) or "frames" not in entry:
        return "entry without frames"
    check_choice(f"the label of each video in {path}", str(entry.get("label", label)), LABELS)
    if entry.get("label", label) != label:
        return f"labelled otherwise than its group {label}"
    return None if _shown(entry["frames"]) else "video without frames"


def _is_table(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether a value of a JSON file is a table with entries."""
    return isinstance(value, Mapping) and bool(value)


def _shown(frames: Sequence[str]) -> list[str]:
    """The frames that are no hidden files."""
    return [frame for frame in frames if not is_hidden(_parts(frame)[-1])]


def _parts(frame: str) -> tuple[str, ...]:
    """Split a path at slashes and backslashes."""
    return PurePosixPath(frame.replace("\\", "/")).parts


def _join(prefix: Path, frame: str, drop: int) -> Path:
    return prefix.joinpath(*_parts(frame)[drop:])


def resolve_prefix(frames: Sequence[str], root: Path) -> tuple[Path, int]:
    r"""Find out how the paths of a list lead to files, by dropping leading folders that do not exist below ``root``.

    Below ``root`` and its sub-folders ``rgb``, ``datasets``, ``datasets/rgb`` and ``FaceForensics++``, the path is
    tried with 0, 1, 2, ... leading parts dropped. The first combination for which one of up to 50 evenly spread
    frames exists is used for all frames; an absolute path that exists is kept.

    Args:
        frames: Paths as written in the list, one per video.
        root: The data root.

    Returns:
        ``(folder, number of leading parts to drop)``; the path of a frame is ``folder / parts[number:]``.

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
        f"expected the frames that the list names below {root}, but found none, the first being {frames[0]!r}; move "
        f"them so that, for example, {root.joinpath(*_parts(frames[0])[-6:])} exists"
    )
