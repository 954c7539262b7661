"""The geometry of a face, shared by the renderer and the landmarks.

Coordinates are those of the upright head, in image half-widths, with x to the right and y down. :func:`to_image`
applies the rotation, scale and shift of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gsnr_toolkit.data.demo.faces import Faces, Floats

YAW_SHIFT = 0.085
"""Horizontal shift of the inner face, in image half-widths, for a fully turned head."""


@dataclass(frozen=True)
class Lens:
    """The shape of eyes, brows and lips: the area between two parabolas that meet at both ends.

    At relative position ``u = (x - x0) / half_width`` in [-1, 1] the middle line lies at
    ``y0 + bend u^2 + tilt u``, the edges ``upper (1 - u^2)`` above and ``lower (1 - u^2)`` below it.
    Every field has one value per face.
    """

    x: Floats
    y: Floats
    half_width: Floats
    upper: Floats
    lower: Floats
    bend: Floats
    tilt: Floats

    def edge(self, u: float, side: float) -> Floats:
        """Return the point of the shape at relative position ``u``.

        Args:
            u: Relative position in [-1, 1].
            side: -1 for the upper edge, 0 for the middle line, 1 for the lower edge.

        Returns:
            Points (N, 2).
        """
        height = -self.upper if side < 0 else self.lower * side
        y = self.y + self.bend * u * u + self.tilt * u + height * (1 - u * u)
        return np.stack([self.x + u * self.half_width, y], axis=1)


@dataclass(frozen=True)
class Layout:
    """Positions of the parts of each face, (N,) each; eyes and brows from left to right in the image."""

    eyes: tuple[Lens, Lens]
    brows: tuple[Lens, Lens]
    nose_x: Floats
    nose_top: Floats
    nose_y: Floats
    lips: Lens
    mouth: Lens


def turn(faces: Faces, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Move a point of the inner face with the head's yaw and pitch.

    The shift ``yaw * YAW_SHIFT * (1 - (x / width)^2)`` is that of a convex surface: largest in the middle, zero at the
    outline.

    Args:
        faces: The faces.
        x: Horizontal positions, (N,).
        y: Vertical positions, (N,).

    Returns:
        New x, new y, and the local horizontal stretch, (N,) each.
    """
    width, yaw = faces.head.width, faces.scene.yaw
    shift = yaw * YAW_SHIFT * (1 - (x / width) ** 2)
    stretch = 1 - 2 * yaw * YAW_SHIFT * x / width**2
    return x + shift, y + faces.scene.pitch, stretch


def _eye(faces: Faces, side: int) -> Lens:
    part, move = faces.features, faces.expression
    x, y, stretch = turn(faces, side * part.eye_x, part.eye_y)
    height = part.eye_height * move.eye_open
    tilt = -side * part.eye_tilt
    return Lens(x, y, part.eye_width * stretch, height, height * 0.72, np.zeros_like(x), tilt)


def _brow(faces: Faces, side: int) -> Lens:
    part, move = faces.features, faces.expression
    x, y, stretch = turn(faces, side * (part.eye_x + 0.012), part.brow_y - move.brow_raise)
    half = part.brow_thickness * 0.62
    return Lens(x, y, part.brow_width * stretch, half, half, part.brow_arch, side * move.brow_tilt)


def _mouth(faces: Faces) -> tuple[Lens, Lens]:
    part, move = faces.features, faces.expression
    x, y, stretch = turn(faces, np.zeros_like(part.mouth_y), part.mouth_y + 0.25 * move.smile)
    width = part.mouth_width * stretch * (1 + 1.6 * move.smile - 2.2 * move.mouth_open * (move.smile < 0.03))
    up, down = move.mouth_open * 0.42, move.mouth_open * 0.78
    tilt = np.zeros_like(x)
    outer = Lens(x, y, width, part.lip_upper + up, part.lip_lower + down, -move.smile, tilt)
    inner = Lens(x, y, width * np.float32(0.86), up, down, -move.smile * np.float32(0.80), tilt)
    return outer, inner


def layout(faces: Faces) -> Layout:
    """Compute the positions of the parts of each face.

    Args:
        faces: The faces.

    Returns:
        Positions in head coordinates.

    >>> from gsnr_toolkit.data.demo.faces import sample_faces
    >>> plan = layout(sample_faces([0, 1]))
    >>> bool((plan.eyes[0].x < plan.eyes[1].x).all() and (plan.nose_y < plan.lips.y).all())
    True
    """
    part = faces.features
    zero = np.zeros_like(part.nose_y)
    nose_x, nose_y, _ = turn(faces, zero, part.nose_y)
    lips, mouth = _mouth(faces)
    return Layout(
        eyes=(_eye(faces, -1), _eye(faces, 1)),
        brows=(_brow(faces, -1), _brow(faces, 1)),
        nose_x=nose_x + 0.25 * YAW_SHIFT * faces.scene.yaw,
        nose_top=part.eye_y + faces.scene.pitch + np.float32(0.01),
        nose_y=nose_y,
        lips=lips,
        mouth=mouth,
    )


def outline(faces: Faces, y_unit: float, side: float) -> Floats:
    """Return a point of the head's outline ``(x / (width w))^2 + (y / height)^2 = 1``, narrower towards the chin.

    The factor is ``w = 1 - jaw (y / height)^2`` below the middle of the head and 1 above it.

    Args:
        faces: The faces.
        y_unit: Vertical position in units of the head's half-height, in [-1, 1].
        side: -1 for the left, 1 for the right.

    Returns:
        Points (N, 2).
    """
    narrow = 1 - faces.head.jaw * max(y_unit, 0.0) ** 2
    x = side * faces.head.width * narrow * np.sqrt(1 - y_unit * y_unit)
    return np.stack([x, y_unit * faces.head.height], axis=1).astype(np.float32)


def to_image(faces: Faces, points: Floats) -> Floats:
    """Transform points from head coordinates to image coordinates in [-1, 1].

    Args:
        faces: The faces, N of them.
        points: Points (N, K, 2).

    Returns:
        Points (N, K, 2).
    """
    scene = faces.scene
    cos, sin = (np.cos(scene.roll) * scene.scale)[:, None], (np.sin(scene.roll) * scene.scale)[:, None]
    x, y = points[..., 0], points[..., 1]
    moved = [x * cos - y * sin + scene.center_x[:, None], x * sin + y * cos + scene.center_y[:, None]]
    return np.stack(moved, axis=-1)
