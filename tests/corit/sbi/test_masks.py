import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull

from corit.sbi.faces import Face
from corit.sbi.masks import (
    box_outline,
    deform,
    displacement,
    draw_outline,
    face_outline,
    random_outline,
    rasterised,
    soften,
)
from corit.sbi.recipe import Recipe
from gsnr_toolkit.data.demo.faces import sample_faces
from gsnr_toolkit.data.demo.landmarks import landmarks

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def points():
    return landmarks(sample_faces(range(20)), 128)


def convex(outline):
    edge = np.roll(outline, -1, axis=0) - outline
    turn = edge[:, 0] * np.roll(edge[:, 1], -1) - edge[:, 1] * np.roll(edge[:, 0], -1)
    return (turn >= -1e-3).all() or (turn <= 1e-3).all()


def literal_polygon(outline, height, width):
    """Distance to the nearest edge of every pixel, positive inside."""
    y, x = np.mgrid[:height, :width].astype(float)
    edge = np.roll(outline, -1, axis=0) - outline
    area = np.sum(outline[:, 0] * np.roll(outline[:, 1], -1) - np.roll(outline[:, 0], -1) * outline[:, 1])
    inside = np.full((height, width), np.inf)
    for (px, py), (ex, ey) in zip(outline.astype(float), edge.astype(float), strict=True):
        length = np.hypot(ex, ey)
        if length > 0:
            inside = np.minimum(inside, np.sign(area) * (ex * (y - py) - ey * (x - px)) / length)
    return inside


def test_the_hull_of_landmarks_is_the_convex_hull(points):
    for face in points:
        outline = face_outline(face)
        np.testing.assert_allclose(ConvexHull(outline).volume, ConvexHull(face).volume, rtol=1e-6)
        assert {tuple(p) for p in outline} <= {tuple(p) for p in face}


def test_the_forehead_is_in_it_three_times_in_four(points):
    kinds = [draw_outline(Face(points[0]), 128, 128, RNG(seed), Recipe())[1] for seed in range(400)]
    assert set(kinds) == {"68 landmarks", "81 landmarks"}
    assert abs(kinds.count("68 landmarks") / 400 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)
    with_forehead = face_outline(points[0])
    without = face_outline(points[0, :68])
    assert without[:, 1].min() > with_forehead[:, 1].min() + 5


def test_68_landmarks_are_enough(points):
    for seed in range(5):
        outline, kind = draw_outline(Face(points[0, :68]), 128, 128, RNG(seed), Recipe())
        assert kind == "68 landmarks"
        np.testing.assert_array_equal(outline, face_outline(points[0, :68]))


def test_a_polygon_is_filled(points):
    for outline in (
        face_outline(points[0]),
        random_outline(96, 128, RNG(0)),
        np.float32([[-30, 5], [40, 5], [10, 300]]),
    ):
        distance = literal_polygon(outline, 96, 128)
        mask = rasterised(outline, 96, 128)
        assert set(np.unique(mask)) == {0, 255}
        assert (mask[distance > 0.1] == 255).all()
        assert (mask[distance < -1] == 0).all()


def test_a_box_gives_a_face_shape_in_it():
    box = np.float32([20, 30, 80, 110])
    for seed in range(50):
        outline = box_outline(box, RNG(seed))
        assert convex(outline)
        assert (outline >= box[:2] - 1e-3).all() and (outline <= box[2:] + 1e-3).all()  # noqa: PT018
        assert ConvexHull(outline).volume > 0.45 * 60 * 80
        widths = [np.ptp(outline[np.abs(outline[:, 1] - y) < 8, 0]) for y in (52, 88)]
        assert widths[1] <= widths[0] + 8


def test_a_generic_outline_is_convex_smooth_and_mostly_inside():
    shares = []
    for seed in range(200):
        outline = random_outline(100, 140, RNG(seed))
        assert convex(outline)
        edge = np.roll(outline, -1, axis=0) - outline
        angle = np.arctan2(edge[:, 1], edge[:, 0])
        turn = np.abs((np.diff(np.append(angle, angle[0])) + np.pi) % (2 * np.pi) - np.pi)
        assert turn.max() < 0.75  # no corner sharper than 43 degrees
        span = np.ptp(outline, axis=0)
        outside = np.maximum(-outline.min(axis=0), outline.max(axis=0) - (139, 99))
        assert (outside < 1e-3)[span < (139, 99)].all()
        shares.append(rasterised(outline, 100, 140).mean() / 255)
    assert min(shares) > 0.05
    assert max(shares) < 0.7
    assert np.std(shares) > 0.05


def test_the_deformation_has_the_size_of_filtered_noise():
    """Against the literal filter at full resolution, and the closed form of its deviation."""
    recipe = Recipe()
    ours = np.stack([displacement(256, 256, RNG(seed), recipe) for seed in range(20)])
    noise = RNG(100).uniform(-1, 1, (20, 256, 256))
    theirs = np.stack([ndimage.gaussian_filter(one, 7) for one in noise]) * 50
    expected = 50 / (2 * 7 * np.sqrt(3 * np.pi))
    assert abs(theirs.std() / expected - 1) < 0.05
    assert abs(ours.std() / expected - 1) < 0.06

    def correlation(field, lag):
        return np.mean(field[..., lag:] * field[..., :-lag]) / np.mean(field**2)

    for lag in (4, 10, 20):
        assert abs(correlation(ours[..., 0], lag) - correlation(theirs, lag)) < 0.06


def test_the_deformation_grows_with_the_image():
    small, large = (displacement(side, side, RNG(5), Recipe()) for side in (128, 256))
    np.testing.assert_allclose(large.reshape(128, 2, 128, 2, 2).mean(axis=(1, 3)), 2 * small, atol=0.1)


def test_the_mask_is_pulled_along_the_field():
    mask = rasterised(random_outline(96, 96, RNG(1)), 96, 96)
    field = displacement(96, 96, RNG(2), Recipe(elastic_alpha=150))
    y, x = np.mgrid[:96, :96]
    place = [y + field[..., 1], x + field[..., 0]]
    expected = ndimage.map_coordinates(mask.astype(float), place, order=1, mode="nearest")
    got = deform(mask, RNG(2), Recipe(elastic_alpha=150))
    np.testing.assert_allclose(got, expected, atol=2 * 255 / 32)  # OpenCV interpolates in steps of 1/32 pixel
    assert (got != mask).any()


def gaussian_window(size, sigma):
    at = np.arange(size) - size // 2
    weights = np.exp(-(at**2) / (2 * sigma**2))
    return weights / weights.sum()


def blurred(image, size, sigma):
    for axis in (0, 1):
        image = ndimage.correlate1d(image, gaussian_window(size, sigma), axis=axis, mode="mirror")
    return image


@pytest.mark.parametrize(("first", "second", "sigma"), [(5, 9, 5.0), (9, 5, 40.0), (13, 13, 6.0)])
def test_the_soft_edge_is_two_filters_and_a_threshold(first, second, sigma):
    """The two filters as described, in float64; the sizes are given in the place of draws."""
    mask = rasterised(random_outline(256, 256, RNG(3)), 256, 256)
    rng = FixedKernels(first, second, sigma)
    got = soften(mask, rng, Recipe(ratios=(0.5,), mask_side=(1, 1)))
    once = blurred(mask / 255, first, 0.3 * ((first - 1) * 0.5 - 1) + 0.8)
    once = once / once.max()
    once[once < 1 - 1e-12] = 0
    twice = blurred(once, second, sigma)
    np.testing.assert_allclose(got, 0.5 * twice / twice.max(), atol=1e-5)


class FixedKernels:
    """A generator whose draws are the ones a test needs."""

    def __init__(self, first, second, sigma):
        self._spans = {(1, 1): 1.0, (5, 45): sigma, (5, 25): np.array([first, second])}

    def uniform(self, low, high, size=None):
        return self._spans[(low, high)]

    def integers(self, high):
        return 0


def test_the_mask_lies_in_the_outline_grown_by_half_a_filter(points):
    recipe = Recipe(elastic_alpha=0)
    for number, face in enumerate(points):
        region = rasterised(face_outline(face), 128, 128)
        soft = soften(deform(region, RNG(number), recipe), RNG(number), recipe)
        assert soft.dtype == np.float32
        assert 0 <= soft.min() <= soft.max() <= 1
        assert soft.max() > 0.2
        grown = ndimage.binary_dilation(region > 0, np.ones((3, 3)), iterations=13 // 2 + 1)
        assert (soft[~grown] == 0).all()


def test_ratios_are_the_largest_value_of_the_mask(points):
    region = rasterised(face_outline(points[0]), 128, 128)
    peaks = [soften(region, RNG(seed), Recipe()).max() for seed in range(300)]
    values, counts = np.unique(np.round(peaks, 3), return_counts=True)
    np.testing.assert_allclose(values, [0.25, 0.5, 0.75, 1], atol=2e-3)
    assert counts[-1] > counts[:-1].sum() * 0.6


def test_a_mask_too_small_to_draw_in_is_kept():
    mask = np.zeros((64, 64), np.uint8)
    mask[30:33, 30:33] = 255
    for seed in range(20):
        assert soften(mask, RNG(seed), Recipe()).max() > 0.1
    assert soften(np.zeros((64, 64), np.uint8), RNG(0), Recipe()).max() == 0
