"""Exact facial landmarks: the 68-point layout of dlib and 13 points of the forehead."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from gsnr_toolkit.data.demo.faces import Faces, Floats
from gsnr_toolkit.data.demo.layout import Layout, Lens, layout, outline, to_image

NUM_LANDMARKS = 81

PARTS: MappingProxyType[str, slice] = MappingProxyType(
    {
        "jaw": slice(0, 17),
        "left_brow": slice(17, 22),
        "right_brow": slice(22, 27),
        "nose_bridge": slice(27, 31),
        "nose_base": slice(31, 36),
        "left_eye": slice(36, 42),
        "right_eye": slice(42, 48),
        "outer_lips": slice(48, 60),
        "inner_lips": slice(60, 68),
        "forehead": slice(68, 81),
    }
)
"""Index ranges of the parts; left and right are those of the image."""


def _jaw(faces: Faces) -> list[Floats]:
    angles = np.linspace(-0.06, 1.0, 9)[:-1] * np.pi / 2
    left = [outline(faces, float(np.sin(angle)), -1) for angle in angles]
    right = [outline(faces, float(np.sin(angle)), 1) for angle in angles[::-1]]
    return [*left, outline(faces, 1.0, 1), *right]


def _forehead(faces: Faces) -> list[Floats]:
    angles = np.linspace(-0.76, 0.76, 13) * np.pi / 2
    return [outline(faces, -0.90 * float(np.cos(angle)), 1.0) * _side(float(angle)) for angle in angles]


def _side(angle: float) -> Floats:
    return np.array([np.sign(angle), 1.0], dtype=np.float32)


def _ring(lens: Lens, upper: tuple[float, ...]) -> list[Floats]:
    lower = upper[::-1]
    above = [lens.edge(u, -1) for u in upper]
    below = [lens.edge(u, 1) for u in lower]
    return [lens.edge(-1, 0), *above, lens.edge(1, 0), *below]


def _nose(faces: Faces, plan: Layout) -> list[Floats]:
    width = faces.features.nose_width
    bridge = [
        np.stack([plan.nose_x * t, plan.nose_top + t * (plan.nose_y - plan.nose_top)], axis=1)
        for t in (0.0, 1 / 3, 2 / 3, 1.0)
    ]
    base = [
        np.stack([plan.nose_x + u * width, plan.nose_y + 0.035 * (1 - u * u) + 0.012], axis=1)
        for u in (-1.0, -0.5, 0.0, 0.5, 1.0)
    ]
    return bridge + base


def landmarks(faces: Faces, size: int = 64) -> Floats:
    """Compute 81 landmarks of each face from the geometry that the renderer draws.

    Points 0-67 follow dlib (jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, lips 48-67). Points 68-80 cross the
    forehead from left to right. :data:`PARTS` names the ranges.

    Args:
        faces: The faces, N of them.
        size: Width and height of the image in pixels.

    Returns:
        Points (N, 81, 2), x and y in pixels; the centre of the first pixel is (0, 0).

    >>> from gsnr_toolkit.data.demo.faces import sample_faces
    >>> landmarks(sample_faces([0, 1, 2])).shape
    (3, 81, 2)
    """
    plan = layout(faces)
    # Positions along a shape, so that as many points as in dlib's layout lie on each edge.
    fifths, thirds, halves = (-2 / 3, -1 / 3, 0.0, 1 / 3, 2 / 3), (-1 / 3, 1 / 3), (-0.5, 0.0, 0.5)
    points = _jaw(faces)
    for brow in plan.brows:
        points += [brow.edge(u, 0) for u in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    points += _nose(faces, plan)
    for eye in plan.eyes:
        points += _ring(eye, thirds)
    points += _ring(plan.lips, fifths) + _ring(plan.mouth, halves) + _forehead(faces)
    image = to_image(faces, np.stack(points, axis=1))
    return ((image + 1) * (size / 2) - 0.5).astype(np.float32)
