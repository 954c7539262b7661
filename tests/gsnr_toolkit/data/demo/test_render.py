from __future__ import annotations

import numpy as np
import pytest

from gsnr_toolkit.data.demo.attributes import ATTRIBUTES
from gsnr_toolkit.data.demo.canvas import Canvas
from gsnr_toolkit.data.demo.faces import sample_faces
from gsnr_toolkit.data.demo.landmarks import landmarks
from gsnr_toolkit.data.demo.render import render


@pytest.mark.parametrize("size", [32, 64])
def test_pixels_do_not_depend_on_the_batch(size: int) -> None:
    together = render(sample_faces(range(20)), size)
    for row in (0, 7, 19):
        np.testing.assert_array_equal(together[row], render(sample_faces([row]), size)[0])


def test_a_larger_rendering_shows_the_same_picture() -> None:
    faces = sample_faces(range(6))
    small, large = render(faces, 64), render(faces, 224)
    pooled = large.reshape(6, 3, 32, 7, 32, 7).mean(axis=(3, 5))
    halved = small.reshape(6, 3, 32, 2, 32, 2).mean(axis=(3, 5))
    assert np.abs(pooled - halved).mean() < 0.012
    assert np.abs(pooled[[1, 2, 3, 4, 5, 0]] - halved).mean() > 0.1  # other faces do differ


def test_values_are_intensities() -> None:
    images = render(sample_faces(range(8)))
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1


def test_the_window_of_a_patch_holds_all_that_is_near_its_point() -> None:
    faces = sample_faces(range(5))
    canvas = Canvas(faces, 64)
    x, y = faces.features.eye_x, faces.features.eye_y
    patch, whole = canvas.at(x, y, 0.2), canvas.at(x, y, 9.0)
    assert patch.x.size < 0.5 * whole.x.size
    assert (np.hypot(patch.x, patch.y) < 0.2).sum() == (np.hypot(whole.x, whole.y) < 0.2).sum()


def _pixel(images: np.ndarray, points: np.ndarray) -> np.ndarray:
    column, row = np.rint(points).astype(int).T
    return images[np.arange(len(images)), :, row, column]


def test_landmarks_lie_on_what_they_name() -> None:
    faces = sample_faces(range(400))
    size = 128
    images, points = render(faces, size), landmarks(faces, size)
    style = {name: np.array(ATTRIBUTES[name].values)[codes] for name, codes in faces.codes.items()}

    open_mouth = style["expression"] == "surprised"
    inside = _pixel(images[open_mouth], points[open_mouth, 60:68].mean(axis=1)).mean(axis=1)
    cheek = _pixel(images[open_mouth], points[open_mouth][:, [2, 31]].mean(axis=1)).mean(axis=1)
    assert np.mean(inside < cheek) > 0.95

    bare = style["glasses"] == "none"
    for part in (slice(36, 42), slice(42, 48)):
        pupil = _pixel(images[bare], points[bare, part].mean(axis=1)).mean(axis=1)
        under = points[bare, part].mean(axis=1) + np.array([0, 0.10 * size])
        assert np.mean(pupil < _pixel(images[bare], under).mean(axis=1)) > 0.9


def test_tiny_images_are_refused() -> None:
    with pytest.raises(ValueError, match="size=8"):
        render(sample_faces([0]), 8)
