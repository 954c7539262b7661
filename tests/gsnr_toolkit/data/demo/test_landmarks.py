from __future__ import annotations

import numpy as np
import pytest

from gsnr_toolkit.data.demo.faces import sample_faces
from gsnr_toolkit.data.demo.landmarks import NUM_LANDMARKS, PARTS, landmarks
from gsnr_toolkit.data.demo.layout import outline, to_image


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return landmarks(sample_faces(range(200)), 64)


def test_81_points_inside_the_image(points: np.ndarray) -> None:
    assert points.shape == (200, NUM_LANDMARKS, 2)
    assert points.min() > 0
    assert points.max() < 63
    assert sorted(i for part in PARTS.values() for i in range(81)[part]) == list(range(81))


def test_they_scale_with_the_size(points: np.ndarray) -> None:
    larger = landmarks(sample_faces(range(200)), 224)
    np.testing.assert_allclose((larger + 0.5) / 224, (points + 0.5) / 64, atol=1e-6)


def test_the_layout_is_that_of_dlib(points: np.ndarray) -> None:
    upright = points[np.abs(sample_faces(range(200)).scene.roll) < 0.06]
    x, y = upright[..., 0], upright[..., 1]
    assert len(upright) > 30
    assert (x[:, 0] < x[:, 8]).all() and (x[:, 8] < x[:, 16]).all()  # noqa: PT018
    assert (y[:, 8:9] >= y[:, :68] - 1e-3).all()  # the chin is the lowest
    assert (np.diff(x[:, 17:27], axis=1) > 0).all()  # brows from left to right
    assert (np.diff(y[:, 27:31], axis=1) > 0).all()  # down the nose
    for start in (36, 42):  # corner, two above, corner, two below
        assert (y[:, start + 1 : start + 3] < y[:, start + 4 : start + 6]).all()
        assert (x[:, start] < x[:, start + 3]).all()
    assert (x[:, 48] < x[:, 54]).all()
    assert (y[:, 51] < y[:, 57]).all()
    assert (np.diff(x[:, 68:81], axis=1) > 0).all()  # forehead from left to right
    assert (y[:, 70:79].max(axis=1) < y[:, 37]).all()


def test_inner_points_lie_inside_the_outline(points: np.ndarray) -> None:
    faces = sample_faces(range(200))
    levels = np.sin(np.linspace(-1, 1, 60) * np.pi / 2)
    ring = [outline(faces, float(v), -1) for v in levels] + [outline(faces, float(v), 1) for v in levels[::-1]]
    polygon = (to_image(faces, np.stack(ring, axis=1)) + 1) * 32 - 0.5
    for corner, shape in zip(points[:, 17:68], polygon, strict=True):
        edge = np.roll(shape, -1, axis=0) - shape
        offset = corner[:, None] - shape[None]
        turn = edge[None, :, 0] * offset[..., 1] - edge[None, :, 1] * offset[..., 0]
        assert (np.sign(turn) == np.sign(turn[0, 0])).mean() > 0.97


def test_jaw_and_forehead_lie_on_the_outline(points: np.ndarray) -> None:
    faces = sample_faces(range(200))
    chin = (to_image(faces, outline(faces, 1.0, 1)[:, None]) + 1) * 32 - 0.5
    np.testing.assert_allclose(points[:, 8], chin[:, 0], atol=1e-4)
