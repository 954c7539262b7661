"""Where the faces of a data set are: exact landmarks of embedded faces, files beside frames, or a function's answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from corit.sbi.faces import Face, why_unusable
from corit.sbi.seeds import Pixels
from gsnr_toolkit.data.base import DataError, ForgeryDataset
from gsnr_toolkit.data.demo.dataset import DemoDataset

__all__ = ["FaceFinder", "FaceSource", "landmark_file", "read_landmarks", "source_of_faces"]

#: A function of one's own: row number in the wrapped data set, and its image, to a face or None.
FaceFinder = Callable[[int, Pixels], Face | None]

MASKS = ("auto", "landmarks", "aligned", "generic")


class FaceSource(Protocol):
    """Finds the face of an image, and says how.

    Attributes:
        note: A sentence on where the faces come from.
        fallback: A sentence on what is done for want of landmarks, where that was not asked for; else None.
    """

    note: str
    fallback: str | None

    def __call__(self, index: int, image: Pixels) -> Face | None:
        """Return the face in the image of row ``index``, or None."""
        ...


class KnownFaces:
    """Landmarks read before the first image; None for the images that have none."""

    def __init__(self, faces: dict[int, Face | None], note: str, fallback: str | None = None) -> None:
        self._faces = faces
        self.note, self.fallback = note, fallback

    def __call__(self, index: int, image: Pixels) -> Face | None:  # noqa: ARG002
        """Return the face of row ``index``."""
        return self._faces[index]


class AlignedFaces(KnownFaces):
    """Landmarks where there are some, and a box in the middle of all other images."""

    def __call__(self, index: int, image: Pixels) -> Face | None:
        """Return the face of row ``index``."""
        return super().__call__(index, image) or Face.aligned(*image.shape[:2])


class FoundFaces:
    """Faces that a function of the user's finds when an image is read."""

    fallback: str | None = None

    def __init__(self, finder: FaceFinder) -> None:
        self._finder = finder
        name = getattr(finder, "__name__", type(finder).__name__)
        self.note = f"self-blending masks are drawn from the faces that {name} finds, and generic where it finds none"

    def __call__(self, index: int, image: Pixels) -> Face | None:
        """Return what the function finds."""
        face = self._finder(index, image)
        if face is not None and not isinstance(face, Face):
            raise DataError(f"expected a Face or None for image {index}, got {type(face).__name__}; see corit.sbi.Face")
        return face


def source_of_faces(data: ForgeryDataset, rows: NDArray[np.intp], masks: str | FaceFinder) -> FaceSource:
    """Find out where the faces of a data set's images are.

    Args:
        data: The data set.
        rows: Row numbers of its real images.
        masks: ``"auto"`` takes landmarks where there are some and generic outlines elsewhere, ``"landmarks"`` insists
            on them, ``"aligned"`` takes :meth:`Face.aligned` elsewhere, for crops with the face in the middle,
            ``"generic"`` looks for none; or a function of row number and image.

    Returns:
        The source.

    Raises:
        DataError: If ``masks`` is something else, or landmarks are missing and insisted on.
    """
    if callable(masks):
        return FoundFaces(masks)
    if masks not in MASKS:
        raise DataError(f"expected masks to be one of {', '.join(MASKS)}, or a function, got {masks!r}")
    if masks == "generic":
        return KnownFaces(dict.fromkeys(rows.tolist()), "self-blending masks are generic outlines, as asked for")
    if isinstance(data, DemoDataset):
        return KnownFaces(_demo_faces(data, rows), "self-blending masks are drawn from exact landmarks")
    faces, missing = _faces_on_disk(data, rows)
    found = len(rows) - sum(missing.values())
    note = f"self-blending masks are drawn from the landmark files of {found} of {len(rows)} real images"
    if not missing:
        return KnownFaces(faces, note)
    reasons = "; ".join(f"{count} x {reason}" for reason, count in missing.most_common())
    if masks == "aligned":
        return AlignedFaces(faces, f"{note}, and for the others from a box where aligned crops have their faces")
    if masks == "landmarks":
        raise DataError(
            f"{data.name}: {len(rows) - found} of {len(rows)} real images have no landmarks ({reasons}); expected an "
            ".npy file of shape (81, 2) or (68, 2) under landmarks/ for each image under frames/, or masks='auto'"
        )
    fallback = f"generic outlines, not face outlines, for {len(rows) - found} of {len(rows)} real images ({reasons})"
    return KnownFaces(faces, note, fallback)


def landmark_file(frame: Path) -> Path | None:
    """Tell where DeepfakeBench keeps the landmarks of a frame.

    Args:
        frame: The image file.

    Returns:
        The ``.npy`` file, whether or not it exists: the last folder called ``frames`` becomes ``landmarks``. None where
        no folder has that name.

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
    """Read a file of landmarks.

    Args:
        path: An ``.npy`` file.

    Returns:
        The points and None, or None and the reason why they are of no use, in a few words.
    """
    if not path.is_file():
        return None, "no landmark file"
    try:
        points = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None, "landmark file that cannot be read"
    reason = why_unusable(points)
    return (points, None) if reason is None else (None, reason)


def _faces_on_disk(
    data: ForgeryDataset, rows: Sequence[int] | NDArray[np.intp]
) -> tuple[dict[int, Face | None], Counter[str]]:
    faces: dict[int, Face | None] = {}
    missing: Counter[str] = Counter()
    paths = data.records["path"] if "path" in data.records.columns else None
    for row in (int(row) for row in rows):
        file = None if paths is None else landmark_file(Path(paths.iloc[row]))
        points, reason = (None, "no landmarks beside the images") if file is None else read_landmarks(file)
        faces[row] = None if points is None else Face(points)
        if reason is not None:
            missing[reason] += 1
    return faces, missing


def _demo_faces(data: DemoDataset, rows: NDArray[np.intp]) -> dict[int, Face | None]:
    """Return the landmarks of embedded faces from the geometry that they are drawn with, without drawing them."""
    from gsnr_toolkit.data.demo.families import FAMILIES
    from gsnr_toolkit.data.demo.landmarks import landmarks

    sources = data.records["source"].iloc[rows]
    numbers = np.array([int(source.removeprefix("face-")) for source in sources], dtype=np.int64)
    faces, _ = FAMILIES[data.family].world.sample(numbers, data.seed)
    points = landmarks(faces, data.image_size)
    return {int(row): Face(own) for row, own in zip(rows, points, strict=True)}
