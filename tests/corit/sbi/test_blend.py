import warnings

import cv2
import numpy as np
import pytest
from scipy import ndimage

from corit.sbi import SOURCE_ONLY, Face, Recipe, content_seed, self_blend
from corit.sbi.blend import mixed, moved
from gsnr_toolkit.data.demo.pairs import demo_pair
from gsnr_toolkit.errors import ProbeError, ProbeWarning

PLAIN = Recipe(crop=False, final=False)


@pytest.fixture(scope="module")
def photo():
    return demo_pair("df", 3, size=128)


def smooth(height, width, seed=0):
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3))
    out = ndimage.gaussian_filter(noise, (3, 3, 0))
    return np.clip((out - out.mean()) * 6 + 128, 0, 255).astype(np.uint8)


def same(one, two):
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ("target", "blend", "mask"))


def literal_move(image, motion):
    """Linear interpolation at the position that each pixel came from, mirrored about the outermost pixels."""
    inverse = np.linalg.inv(np.vstack([motion, [0, 0, 1]]))
    height, width = image.shape[:2]

    def mirror(i, n):
        i = abs(i) % (2 * n - 2)
        return min(i, 2 * n - 2 - i)

    out = np.zeros(image.shape)
    for y in range(height):
        for x in range(width):
            px, py = (inverse @ [x, y, 1])[:2]
            x0, y0 = int(np.floor(px)), int(np.floor(py))
            for dy in (0, 1):
                for dx in (0, 1):
                    weight = (1 - abs(px - x0 - dx)) * (1 - abs(py - y0 - dy))
                    out[y, x] += weight * image[mirror(y0 + dy, height), mirror(x0 + dx, width)]
    return out


def test_the_source_is_moved_with_linear_interpolation():
    image = smooth(40, 36)
    motion = np.array([[1.04, 0, 1.3], [0, 1.04, -2.2]])
    expected = literal_move(image, motion)
    step = np.abs(np.diff(image.astype(int), axis=0)).max() + np.abs(np.diff(image.astype(int), axis=1)).max()
    # OpenCV rounds positions to 1/32 pixel, and the result to whole levels.
    assert np.abs(moved(image, motion) - expected).max() <= step / 32 + 1
    assert np.abs(image - expected).max() > 5 * (step / 32 + 1)


def test_a_shift_of_whole_pixels_is_exact():
    image = smooth(40, 36)
    shifted = moved(image, np.array([[1.0, 0, 3], [0, 1, 2]]))
    np.testing.assert_array_equal(shifted[2:, 3:], image[:-2, :-3])


def test_mixing_is_the_weighted_mean():
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, 256, (2, 20, 24, 3), dtype=np.uint8)
    mask = rng.random((20, 24)).astype(np.float32)
    mask[:5], mask[5:8] = 0, 1
    got = mixed(source, target, mask)
    weight = mask[..., None].astype(np.float64)
    assert np.abs(got - (weight * source + (1 - weight) * target)).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(got[:5], target[:5])
    np.testing.assert_array_equal(got[5:8], source[5:8])


@pytest.mark.parametrize("augmented", ["either", "source"])
def test_outside_the_mask_the_blend_is_the_target(photo, augmented):
    differ = 0
    for seed in range(30):
        pair = self_blend(
            photo.real, Face(photo.landmarks), seed=seed, recipe=Recipe(crop=False, final=False, augmented=augmented)
        )
        outside = pair.mask == 0
        np.testing.assert_array_equal(pair.blend[outside], pair.target[outside])
        assert 0.2 < outside.mean() < 0.95
        differ += (pair.blend[~outside] != pair.target[~outside]).any()
    assert differ == 30


def test_the_last_change_is_the_same_for_both(photo):
    """Without JPEG, which spreads over blocks, they still agree outside the mask; so they would not, changed apart."""
    changed = 0
    for seed in range(30):
        plain, final = (
            self_blend(
                photo.real, Face(photo.landmarks), seed=seed, recipe=Recipe(crop=False, final=final, jpeg_chance=0)
            )
            for final in (False, True)
        )
        outside = final.mask == 0
        np.testing.assert_array_equal(final.mask, plain.mask)
        np.testing.assert_array_equal(final.blend[outside], final.target[outside])
        changed += (final.target != plain.target).any()
    assert 10 < changed < 29


def test_at_test_time_the_target_is_the_image(photo):
    for seed in range(20):
        pair = self_blend(photo.real, Face(photo.landmarks), seed=seed, recipe=SOURCE_ONLY)
        np.testing.assert_array_equal(pair.target, photo.real)


def test_source_or_target_is_changed_never_both(photo):
    """Where the target is changed, the source is the image itself, moved; otherwise the target is the image."""
    recipe = Recipe(flip_chance=0, crop=False, final=False, move_x=0, move_y=0, zoom=1, ratios=(1,))
    changed = 0
    for seed in range(40):
        pair = self_blend(photo.real, Face(photo.landmarks), seed=seed, recipe=recipe)
        full = pair.mask == 1
        assert full.any()
        if (pair.target == photo.real).all():
            assert (pair.blend[full] != photo.real[full]).any()
        else:
            np.testing.assert_array_equal(pair.blend[full], photo.real[full])
            changed += 1
    assert 8 <= changed <= 32


def test_a_seed_makes_one_pair(photo):
    face = Face(photo.landmarks)
    first, again, other = (self_blend(photo.real, face, seed=seed) for seed in (5, 5, 6))
    assert same(first, again)
    assert not same(first, other)
    assert same(self_blend(photo.real, face, seed=[5, 1]), self_blend(photo.real.copy(), face, seed=[5, 1]))


def test_without_a_seed_the_content_is_the_seed(photo):
    face = Face(photo.landmarks)
    np.random.seed(0)  # noqa: NPY002
    first = self_blend(photo.real, face)
    state = np.random.get_state()[2]  # noqa: NPY002
    again = self_blend(np.asfortranarray(photo.real), face)
    assert same(first, again)
    assert np.random.get_state()[2] == state  # noqa: NPY002
    touched = photo.real.copy()
    touched[0, 0, 0] ^= 1
    assert not np.array_equal(self_blend(touched, face).mask, first.mask)


def test_content_seeds_differ_with_shape_and_bytes():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(200)]
    assert len({content_seed(image) for image in images}) == 200
    assert content_seed(images[0]) != content_seed(images[0].reshape(8, 32, 3))
    assert 0 <= content_seed(images[0]) < 2**64


@pytest.mark.parametrize("known", ["landmarks", "box", "generic"])
def test_a_seed_blends_a_larger_copy_alike(known):
    """Lengths scale with the image: masks of one seed at two sizes are two sizes of one mask."""
    pairs = {size: demo_pair("df", 3, size=size) for size in (128, 256)}
    for seed in range(8):
        masks = {}
        for size, pair in pairs.items():
            points = pair.landmarks
            box = np.r_[points.min(axis=0), points.max(axis=0)]
            face = {"landmarks": Face(points), "box": Face(box=box), "generic": None}[known]
            masks[size] = self_blend(pair.real, face, seed=seed, recipe=PLAIN).mask
        small = cv2.resize(masks[256], (128, 128), interpolation=cv2.INTER_AREA)
        union = max(small.sum(), masks[128].sum())
        assert np.abs(small - masks[128]).sum() < 0.12 * union, seed


def test_flipping_flips_image_and_landmarks_together(photo):
    face, width = Face(photo.landmarks), photo.real.shape[1]
    for seed in range(5):
        inside = self_blend(photo.real, face, seed=seed, recipe=Recipe(flip_chance=1))
        outside = self_blend(photo.real[:, ::-1], face.flipped(width), seed=seed, recipe=Recipe(flip_chance=0))
        assert same(inside, outside)
        np.testing.assert_array_equal(inside.face.landmarks, outside.face.landmarks)
    kept = [
        np.array_equal(self_blend(photo.real, face, seed=s, recipe=PLAIN).face.landmarks, photo.landmarks)
        for s in range(100)
    ]
    assert 30 <= sum(kept) <= 70


def test_landmarks_follow_the_cuts():
    """A bright dot on a landmark is still under that landmark in the pair."""
    image = np.zeros((400, 300, 3), np.uint8)
    points = demo_pair("df", 3, size=100).landmarks.round() + np.float32([120, 170])
    x, y = points[30].astype(int)
    image[y, x] = 255
    recipe = Recipe(augmented="source", final=False)
    for seed in range(20):
        pair = self_blend(image, Face(points), seed=seed, recipe=recipe)
        x, y = pair.face.landmarks[30].round().astype(int)
        assert pair.target[y, x].tolist() == [255, 255, 255]
        assert pair.target.shape[0] == pair.target.shape[1] < 200
        assert pair.mask.shape == pair.target.shape[:2]


def test_a_large_cut_is_made_smaller():
    pair = self_blend(smooth(300, 200), seed=0, recipe=Recipe(largest=64, crop=False))
    assert pair.target.shape == (96, 64, 3)


@pytest.mark.parametrize("shape", [(32, 32, 3), (16, 16, 3), (16, 90, 3), (64, 64), (64, 64, 1)])
def test_small_and_grey_images(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for seed in range(20):
        for recipe in (Recipe(), PLAIN):
            pair = self_blend(image, seed=seed, recipe=recipe)
            assert pair.target.shape == pair.blend.shape == (*pair.mask.shape, 3)
            assert 0 <= pair.mask.min() < pair.mask.max() <= 1
            assert (pair.target != pair.blend).any()


def test_tiny_faces_are_blended_too():
    points = demo_pair("df", 3, size=64).landmarks
    image = smooth(64, 64)
    for scale in (0.5, 0.2, 0.08):
        small = (points - 32) * scale + 32
        for seed in range(20):
            assert self_blend(image, Face(small), seed=seed, recipe=PLAIN).mask.max() > 0


def test_landmarks_of_no_use_are_said_so():
    with pytest.warns(ProbeWarning, match="generic outline: all landmarks are zero"):
        pair = self_blend(smooth(64, 64), Face(np.zeros((81, 2))), seed=0)
    assert pair.outline == "generic"
    assert pair.face is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(pair, self_blend(smooth(64, 64), None, seed=0))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64, 3), np.float32), "uint8 array with values 0 to 255, got dtype float32"),
        ([[0]], "got list"),
        (np.zeros((64, 64, 4), np.uint8), r"\(H, W, 3\) or \(H, W\), got shape \(64, 64, 4\)"),
        (np.zeros((3, 64, 64), np.uint8), "channels come last"),
        (np.zeros((15, 64, 3), np.uint8), r"at least 16 pixels a side, got \(15, 64\)"),
    ],
)
def test_other_images_are_errors(image, message):
    with pytest.raises(ProbeError, match=message):
        self_blend(image, seed=0)


def test_a_negative_seed_is_an_error():
    with pytest.raises(ProbeError, match="seed of at least 0, got -1"):
        self_blend(smooth(32, 32), seed=-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jpeg": (0, 100)}, r"jpeg to be two ascending numbers from 1 to 100, got \(0, 100\)"),
        ({"kernel": (9, 5)}, "kernel to be two ascending numbers at least 1"),
        ({"ratios": ()}, "at least one value in ratios"),
        ({"ratios": (2,)}, "each of ratios to be from 0 to 1, got 2"),
        ({"augmented": "both"}, "'either' or 'source', got 'both'"),
        ({"largest": 4}, "largest to be at least 16, got 4"),
        ({"final_chance": float("nan")}, "final_chance to be from 0 to 1, got nan"),
    ],
)
def test_recipes_are_checked(change, message):
    with pytest.raises(ProbeError, match=message):
        Recipe(**change)
