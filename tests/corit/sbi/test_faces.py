import numpy as np
import pytest

from corit.sbi.faces import MIRRORED, Face, flip_landmarks, usable_face, why_unusable
from corit.sbi.recipe import Recipe
from corit.sbi.windows import last_window, loose_window
from gsnr_toolkit.data.demo.faces import sample_faces
from gsnr_toolkit.data.demo.landmarks import PARTS, landmarks
from gsnr_toolkit.errors import ProbeError, ProbeWarning


@pytest.fixture(scope="module")
def points():
    return landmarks(sample_faces(range(30)), 100)


def test_mirroring_is_its_own_inverse_and_keeps_parts():
    assert [MIRRORED[MIRRORED[i]] for i in range(68)] == list(range(68))
    other = {"left_brow": "right_brow", "right_brow": "left_brow", "left_eye": "right_eye", "right_eye": "left_eye"}
    for part, places in PARTS.items():
        if part != "forehead":
            goal = PARTS[other.get(part, part)]
            assert sorted(MIRRORED[i] for i in range(68)[places]) == list(range(68)[goal])


def test_a_flipped_face_has_the_layout_of_a_face(points):
    """The order within each part, left to right and around, is that of the layout again."""
    for face in points:
        new = flip_landmarks(face, 100)
        for places in (slice(0, 17, 8), slice(17, 27), slice(31, 36), slice(68, 81)):
            assert (np.sign(np.diff(new[places, 0])) == np.sign(np.diff(face[places, 0]))).all()
        for start in (36, 42):
            assert (new[start + 1 : start + 3, 1] < new[start + 4 : start + 6, 1]).all() == (
                face[start + 1 : start + 3, 1] < face[start + 4 : start + 6, 1]
            ).all()
        assert new[36:42, 0].mean() < new[42:48, 0].mean()
        across = face * np.float32([-1, 1]) + np.float32([99, 0])
        np.testing.assert_allclose(sorted(new.tolist()), sorted(across.tolist()), atol=1e-4)


def test_flipping_twice_gives_the_face_back(points):
    for face in points:
        np.testing.assert_allclose(flip_landmarks(flip_landmarks(face, 100), 100), face, atol=1e-4)
    box = np.float32([10, 20, 40, 60])
    twice = Face(points[0], box).flipped(100).flipped(100)
    np.testing.assert_array_equal(twice.box, box)
    np.testing.assert_array_equal(Face(box=box).flipped(100).box, [59, 20, 89, 60])


def test_a_scrambled_forehead_is_paired_by_position(points):
    order = np.r_[0:68, 68 + np.random.default_rng(0).permutation(13)]
    np.testing.assert_allclose(flip_landmarks(points[0][order], 100), flip_landmarks(points[0], 100)[order])


def test_points_follow_a_cut_and_a_change_of_size(points):
    face = Face(points[0], np.float32([10, 20, 40, 60]))
    np.testing.assert_allclose(face.moved(1, 7, 3).landmarks, points[0] - [7, 3], atol=1e-5)
    double = face.moved(2, 0, 0)
    np.testing.assert_allclose((double.landmarks + 0.5) / 200, (points[0] + 0.5) / 100, atol=1e-6)
    np.testing.assert_allclose(double.box, [20.5, 40.5, 80.5, 120.5])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p * 0, "all landmarks are zero"),
        (lambda p: p[:5], r"shape \(5, 2\)"),
        (lambda p: p * np.nan, "not finite"),
        (lambda p: p * 0 + 7, "less than 2 pixels apart"),
        (lambda p: p - 500, "outside the image"),
        (lambda p: p.astype(str), "shape"),
    ],
)
def test_useless_landmarks_are_recognised(points, change, reason):
    assert why_unusable(points[0], 100, 100) is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(why_unusable(change(points[0]), 100, 100))


def test_what_is_left_of_a_face(points):
    zeros, box = np.zeros((81, 2)), np.float32([10, 20, 40, 60])
    assert usable_face(None, 100, 100) is None
    with pytest.warns(ProbeWarning, match="takes a generic outline: all landmarks are zero"):
        assert usable_face(Face(zeros), 100, 100) is None
    with pytest.warns(ProbeWarning, match="takes the face's box: all landmarks are zero"):
        assert usable_face(Face(zeros, box), 100, 100).landmarks is None
    with pytest.warns(ProbeWarning, match="takes a generic outline: the middle of the box lies outside"):
        assert usable_face(Face(box=box + 500), 100, 100) is None
    face = Face(points[0])
    assert usable_face(face, 100, 100) is face


def test_wrong_shapes_are_errors(points):
    with pytest.raises(ProbeError, match=r"shape \(68, 2\) or \(81, 2\), got \(67, 2\)"):
        Face(points[0, :67])
    with pytest.raises(ProbeError, match=r"share in \(0, 1\], got 2"):
        Face.aligned(10, 10, share=2)
    with pytest.raises(ProbeError, match=r"left < right and top < bottom, got \[1, 2, 1, 5\]"):
        Face(box=np.array([1, 2, 1, 5]))


def test_the_loose_window_has_half_a_face_on_each_side():
    face = Face(box=np.float32([100, 200, 160, 280]))
    assert loose_window(face, 1000, 1000, Recipe()) == (70, 160, 191, 321)
    assert loose_window(face, 300, 170, Recipe()) == (70, 160, 170, 300)
    assert loose_window(None, 30, 20, Recipe()) == (0, 0, 20, 30)


def test_the_last_window_holds_the_face_and_is_square():
    face = Face(box=np.float32([100, 200, 160, 280]))
    seen = set()
    for seed in range(50):
        left, top, right, bottom = last_window(face, 1000, 1000, np.random.default_rng(seed), Recipe())
        assert left <= 100 < 160 < right
        assert top <= 200 < 280 < bottom
        assert right - left == bottom - top <= 81 + 2 * 0.2 * 80 + 1
        seen.add((left, top))
    assert len(seen) > 30
    tight = last_window(face, 1000, 165, np.random.default_rng(0), Recipe())
    assert 0 <= tight[0] < tight[2] <= 165


def test_without_a_face_the_last_window_loses_at_most_a_tenth_of_each_side():
    windows = [last_window(None, 100, 200, np.random.default_rng(seed), Recipe()) for seed in range(50)]
    for left, top, right, bottom in windows:
        assert 0 <= left <= 20
        assert 0 <= top <= 10
        assert 180 <= right <= 200
        assert 90 <= bottom <= 100
    assert len(set(windows)) == 50


def test_no_window_is_smaller_than_the_steps_can_work_on():
    face = Face(box=np.float32([1, 1, 4, 4]))
    left, top, right, bottom = last_window(face, 40, 40, np.random.default_rng(0), Recipe())
    assert right - left >= 16
    assert bottom - top >= 16
    assert left >= 0
    assert right <= 40
