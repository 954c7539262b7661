"""Where the faces of a data set come from: embedded faces, landmark files beside the frames, or a user's function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corit.sbi.faces import Face, why_unusable
from corit.sbi.seeds import Pixels
from gsnr_toolkit.data.base import DataError, ForgeryDataset
from gsnr_toolkit.data.demo.dataset import DemoDataset
from gsnr_toolkit.data.demo.families import FAMILIES
from gsnr_toolkit.data.demo.landmarks import landmarks

__all__ = ["FaceFinder", "FaceSource", "landmark_file", "read_landmarks", "source_of_faces"]

#: From the row number in the wrapped data set and the image, to a face or None.
FaceFinder = Callable[[int, Pixels], Face | None]

MASKS = ("auto", "landmarks", "aligned", "generic")


@dataclass(frozen=True)
class FaceSource:
    """A way to find faces, and what to report about it.

    Attributes:
        find: Returns the face of a row, or None.
        note: A sentence on where the faces come from.
        fallback: What replaces missing landmarks if the user did not request that; else None.
    """

    find: FaceFinder
    note: str
    fallback: str | None = None


def source_of_faces(data: ForgeryDataset, rows: NDArray[np.intp], masks: str | FaceFinder) -> FaceSource:
    """Choose where the faces of a data set's images come from.

    Args:
        data: The data set.
        rows: Row numbers of its real images.
        masks: ``"auto"`` uses landmarks where available and generic outlines elsewhere; ``"landmarks"`` requires
            landmarks; ``"aligned"`` replaces missing ones by :meth:`Face.aligned`, for crops centred on the face;
            ``"generic"`` uses none. Or a function of row number and image.

    Returns:
        The source.

    Raises:
        DataError: If ``masks`` is none of these, or required landmarks are missing.
    """
    # Not closures: worker processes may have to pickle the source together with the data set.
    if callable(masks):
        name = getattr(masks, "__name__", type(masks).__name__)
        note = f"self-blending masks are drawn from the faces that {name} finds, and generic where it finds none"
        return FaceSource(partial(_ask, masks), note)
    if masks not in MASKS:
        raise DataError(f"expected masks to be one of {', '.join(MASKS)}, got {masks!r}; or pass a function")
    if masks == "generic":
        nothing = dict.fromkeys(rows.tolist())
        return FaceSource(partial(_look_up, nothing), "self-blending masks are generic outlines, as requested")
    if isinstance(data, DemoDataset):
        known = _demo_faces(data, rows)
        return FaceSource(partial(_look_up, known), "self-blending masks are drawn from exact landmarks")
    faces, missing = _faces_on_disk(data, rows)
    found = len(rows) - sum(missing.values())
    note = f"self-blending masks are drawn from the landmark files of {found} of {len(rows)} real images"
    if not missing:
        return FaceSource(partial(_look_up, faces), note)
    if masks == "aligned":
        note = f"{note}, and for the others from a box where aligned crops have their faces"
        return FaceSource(partial(_look_up_or_align, faces), note)
    reasons = "; ".join(f"{count} x {reason}" for reason, count in missing.most_common())
    if masks == "landmarks":
        raise DataError(
            f"{data.name}: expected landmarks for each real image, but {len(rows) - found} of {len(rows)} have none "
            f"({reasons}); put an .npy file of shape (81, 2) or (68, 2) under landmarks/ for each image under frames/, "
            "or use masks='auto'"
        )
    fallback = f"generic outlines, not face outlines, for {len(rows) - found} of {len(rows)} real images ({reasons})"
    return FaceSource(partial(_look_up, faces), note, fallback)


def _ask(finder: FaceFinder, index: int, image: Pixels) -> Face | None:
    face = finder(index, image)
    if face is not None and not isinstance(face, Face):
        raise DataError(
            f"expected a Face or None for image {index}, got {type(face).__name__}; return a corit.sbi.Face from masks"
        )
    return face


def _look_up(faces: dict[int, Face | None], index: int, image: Pixels) -> Face | None:  # noqa: ARG001
    return faces[index]


def _look_up_or_align(faces: dict[int, Face | None], index: int, image: Pixels) -> Face | None:
    return faces[index] or Face.aligned(*image.shape[:2])


def landmark_file(frame: Path) -> Path | None:
    """Return the ``.npy`` file where DeepfakeBench keeps the landmarks of a frame; it may not exist.

    The last folder called ``frames`` becomes ``landmarks``. None if no folder has that name.

    >>> landmark_file(Path("c23/frames/000/007.png")).as_posix()
    'c23/landmarks/000/007.npy'
    """
    parts = list(frame.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "frames"]
    if not places:
        return None
    parts[places[-1]] = "landmarks"
    return Path(*parts).with_suffix(".npy")


def read_landmarks(path: Path) -> tuple[NDArray[Any] | None, str | None]:
    """Return the points of an ``.npy`` file and None, or None and the reason why they are unusable."""
    if not path.is_file():
        return None, "no landmark file"
    try:
        points = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None, "landmark file that cannot be read"
    reason = why_unusable(points)
    return (points, None) if reason is None else (None, reason)


def _faces_on_disk(data: ForgeryDataset, rows: NDArray[np.intp]) -> tuple[dict[int, Face | None], Counter[str]]:
    """Return the face of each row, and the reasons for missing ones with their counts."""
    faces: dict[int, Face | None] = {}
    missing: Counter[str] = Counter()
    paths = data.records["path"] if "path" in data.records.columns else None
    for row in rows.tolist():
        file = None if paths is None else landmark_file(Path(paths.iloc[row]))
        points, reason = (None, "no landmarks beside the images") if file is None else read_landmarks(file)
        faces[row] = None if points is None else Face(points)
        if reason is not None:
            missing[reason] += 1
    return faces, missing


def _demo_faces(data: DemoDataset, rows: NDArray[np.intp]) -> dict[int, Face | None]:
    """Compute the landmarks of embedded faces from their geometry, without drawing them."""
    sources = data.records["source"].iloc[rows]
    numbers = np.array([int(source.removeprefix("face-")) for source in sources], dtype=np.int64)
    faces, _ = FAMILIES[data.family].world.sample(numbers, data.seed)
    points = landmarks(faces, data.image_size)
    return {int(row): Face(own) for row, own in zip(rows, points, strict=True)}
