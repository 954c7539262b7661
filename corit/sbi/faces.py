"""Faces in images: landmarks, a box, or neither; and how both follow crops, scaling and flips."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsnr_toolkit.errors import ProbeError, ProbeWarning

__all__ = ["MIRRORED", "Face", "flip_landmarks", "why_unusable"]

Points = NDArray[np.float32]

#: Points of dlib's layout, without the forehead.
INNER = 68


def _mirrored() -> tuple[int, ...]:
    order = list(range(INNER))
    swaps = [(i, 16 - i) for i in range(8)]  # jaw
    swaps += [(i, 43 - i) for i in range(17, 22)]  # brows
    swaps += [(31, 35), (32, 34)]  # below the nose
    swaps += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]  # eyes
    swaps += [(48, 54), (49, 53), (50, 52), (55, 59), (56, 58)]  # outer lips
    swaps += [(60, 64), (61, 63), (65, 67)]  # inner lips
    for a, b in swaps:
        order[a], order[b] = b, a
    return tuple(order)


#: For each of the 68 points, the point on the other side of the face.
MIRRORED = _mirrored()


@dataclass(frozen=True)
class Face:
    """Where a face is, in pixels of its image; the centre of the first pixel is (0, 0).

    Attributes:
        landmarks: (68, 2) or (81, 2), x and y: dlib's 68 points, followed by 13 forehead points in the longer layout.
        box: (4,): left, top, right, bottom of the face, down to the chin; used if there are no landmarks.

    Raises:
        ProbeError: If a shape differs, or the box is empty or not finite.

    >>> Face(box=np.array([10, 10, 5, 20]))
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected a box (left, top, right, bottom) with left < right and top < bottom, ...
    """

    landmarks: Points | None = None
    box: Points | None = None

    def __post_init__(self) -> None:
        if self.landmarks is not None:
            points = np.asarray(self.landmarks, dtype=np.float32)
            if points.shape not in ((INNER, 2), (81, 2)):
                raise ProbeError(
                    f"expected landmarks of shape (68, 2) or (81, 2), got {points.shape}; use dlib's layout"
                )
            object.__setattr__(self, "landmarks", points)
        if self.box is not None:
            box = np.asarray(self.box, dtype=np.float32)
            if box.shape != (4,) or not np.isfinite(box).all() or box[0] >= box[2] or box[1] >= box[3]:
                raise ProbeError(
                    "expected a box (left, top, right, bottom) with left < right and top < bottom, "
                    f"got {np.asarray(self.box).tolist()}; check the order of the four numbers"
                )
            object.__setattr__(self, "box", box)

    @classmethod
    def aligned(cls, height: int, width: int, share: float = 0.75) -> Face:
        """Return the box of a face centred in its image, as in aligned crops; this assumes, it does not detect.

        Args:
            height: Height of the image, in pixels.
            width: Width of the image, in pixels.
            share: Fraction of the image's width and height that the face takes.

        Returns:
            A face with a box only.

        Raises:
            ProbeError: If the share is not in (0, 1].

        >>> Face.aligned(101, 201, share=0.5).box.tolist()
        [50.0, 25.0, 150.0, 75.0]
        """
        if not 0 < share <= 1:
            raise ProbeError(f"expected share in (0, 1], got {share}; pass a fraction such as 0.75")
        middle, half = np.array([width - 1, height - 1]) / 2, np.array([width - 1, height - 1]) * share / 2
        return cls(box=np.concatenate([middle - half, middle + half]))

    @property
    def extent(self) -> Points | None:
        """Left, top, right and bottom of the landmarks, or the box, (4,); None if neither is known."""
        if self.landmarks is None:
            return self.box
        return np.concatenate([self.landmarks.min(axis=0), self.landmarks.max(axis=0)])

    def moved(self, scale: float, left: float, top: float) -> Face:
        """Return the face after a crop whose first pixel was (``left``, ``top``), scaled by new size over old size."""
        offset = np.array([left, top], dtype=np.float32)

        def new(points: Points) -> Points:
            return np.asarray((points - offset + 0.5) * scale - 0.5, dtype=np.float32)

        return replace(
            self,
            landmarks=None if self.landmarks is None else new(self.landmarks),
            box=None if self.box is None else new(self.box.reshape(2, 2)).reshape(4),
        )

    def flipped(self, width: int) -> Face:
        """Return the face in the horizontally flipped image of this width, with left and right exchanged."""
        box = None
        if self.box is not None:
            left, top, right, bottom = self.box
            box = np.array([width - 1 - right, top, width - 1 - left, bottom], dtype=np.float32)
        return Face(None if self.landmarks is None else flip_landmarks(self.landmarks, width), box)


def flip_landmarks(landmarks: Points, width: int) -> Points:
    """Return mirrored landmarks, (68, 2) or (81, 2), in which each point has the number of its new side.

    The 68 points are exchanged by :data:`MIRRORED`. Layouts number the forehead differently (some from left to right,
    some not), so the forehead points are paired by their order from left to right.

    >>> points = np.zeros((68, 2), np.float32)
    >>> points[36] = 3, 5  # outer corner of the eye on the left
    >>> flip_landmarks(points, 10)[45].tolist()
    [6.0, 5.0]
    """
    across = np.asarray(landmarks, dtype=np.float32).copy()
    across[:, 0] = width - 1 - across[:, 0]
    order = np.argsort(landmarks[INNER:, 0], kind="stable") + INNER
    partner = np.arange(len(landmarks))
    partner[:INNER] = MIRRORED
    partner[order] = order[::-1]
    return across[partner]


def why_unusable(landmarks: Any, height: float = np.inf, width: float = np.inf) -> str | None:
    """Return in a few words why landmarks cannot outline a face; None if they can.

    >>> why_unusable(np.zeros((81, 2)))
    'all landmarks are zero'
    """
    points = np.asarray(landmarks)
    if points.shape not in ((INNER, 2), (81, 2)) or points.dtype.kind not in "iuf":
        return f"landmarks of shape {points.shape} instead of (68, 2) or (81, 2)"
    if not np.isfinite(points).all():
        return "landmarks that are not finite"
    if not points.any():
        return "all landmarks are zero"
    inner = points[:INNER]
    if (inner.max(axis=0) - inner.min(axis=0)).min() < 2:
        return "landmarks less than 2 pixels apart"
    outside = not _inside((inner.max(axis=0) + inner.min(axis=0)) / 2, height, width)
    return "landmarks outside the image" if outside else None


def usable_face(face: Face | None, height: int, width: int) -> Face | None:
    """Drop unusable landmarks and boxes with a warning; return None if neither is left."""
    if face is None:
        return None
    if face.box is not None and not _inside((face.box[:2] + face.box[2:]) / 2, height, width):
        _warn(
            "a generic outline" if face.landmarks is None else "landmarks alone", "the middle of the box lies outside"
        )
        face = replace(face, box=None)
    if face.landmarks is not None:
        reason = why_unusable(face.landmarks, height, width)
        if reason is not None:
            _warn("a generic outline" if face.box is None else "the face's box", reason)
            face = replace(face, landmarks=None)
    return None if face.landmarks is None and face.box is None else face


def _inside(point: NDArray[np.floating], height: float, width: float) -> bool:
    return bool(((point >= 0) & (point <= (width - 1, height - 1))).all())


def _warn(taken: str, reason: str) -> None:
    warnings.warn(f"self-blending takes {taken}: {reason}", ProbeWarning, stacklevel=4)
