import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation

from corit.sbi.photometric import (
    after_blending,
    apply_colour,
    before_blending,
    brightness_contrast,
    chain,
    hue_saturation_value,
    rescaled,
    sharpened,
    shift_channels,
    through_jpeg,
    unchanged,
)
from corit.sbi.recipe import Recipe


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)


def literal(image, colour):
    out = np.empty(image.shape)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            for c in range(3):
                out[y, x, c] = sum(colour[c, k] * float(image[y, x, k]) for k in range(3)) + colour[c, 3]
    return out


def test_a_colour_map_is_what_a_loop_over_pixels_gives(image):
    colour = chain(shift_channels(np.array([9.0, -7, 3])), hue_saturation_value(9, 0.1, -0.02))
    expected = np.clip(literal(image, colour), 0, 255)
    assert np.abs(apply_colour(image, colour).astype(float) - expected).max() <= 0.5 + 1e-3
    assert ((expected == 0) | (expected == 255)).any()  # the cut at both ends is exercised


def test_a_chain_is_one_map_after_the_other(image):
    steps = [shift_channels(np.array([5.0, 6, 7])), hue_saturation_value(20, -0.2, 0.1), brightness_contrast(0.1, -0.2)]
    values = image.astype(float)
    for step in steps:
        values = literal(values, step)
    np.testing.assert_allclose(literal(image, chain(*steps)), values, atol=1e-9)


def test_hue_turns_about_the_grey_axis():
    turn = hue_saturation_value(37, 0, 0)[:, :3]
    expected = Rotation.from_rotvec(np.deg2rad(37) * np.ones(3) / np.sqrt(3)).as_matrix()
    np.testing.assert_allclose(turn, expected, atol=1e-12)


def test_saturation_stretches_the_distance_from_grey_and_value_scales_all():
    colour = np.array([200.0, 40, 90])
    grey = colour.mean()
    new = hue_saturation_value(0, 0.25, 0)[:, :3] @ colour
    np.testing.assert_allclose(new - grey, 1.25 * (colour - grey))
    np.testing.assert_allclose(hue_saturation_value(0, 0, 0.1)[:, :3] @ colour, 1.1 * colour)


def test_no_change_is_no_change(image):
    assert apply_colour(image, unchanged()) is image
    np.testing.assert_array_equal(apply_colour(image, chain(shift_channels(np.full(3, 1e-9)))), image)


def test_shrinking_loses_what_is_finer_than_its_blocks():
    checks = np.indices((32, 32)).sum(axis=0) % 2 * 200
    image = np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8)
    np.testing.assert_array_equal(rescaled(image, 2), np.full((32, 32, 3), 100))
    smooth = np.repeat(np.linspace(0, 255, 32)[None, :, None], 32, axis=0).repeat(3, axis=2).astype(np.uint8)
    assert np.abs(rescaled(smooth, 2).astype(int) - smooth)[:, 2:-2].max() <= 1
    assert rescaled(image[:17, :19], 4).shape == (17, 19, 3)


def test_sharpening_adds_the_laplacian(image):
    kernel = -0.3 * np.ones((3, 3))
    kernel[1, 1] = 1 + 8 * 0.3
    expected = np.stack([ndimage.correlate(image[..., c].astype(float), kernel, mode="mirror") for c in range(3)], -1)
    np.testing.assert_allclose(sharpened(image, 0.3), np.clip(expected, 0, 255), atol=0.51)


def test_jpeg_keeps_the_order_of_channels_and_loses_with_quality():
    rng = np.random.default_rng(1)
    image = ndimage.gaussian_filter(rng.uniform(0, 255, (64, 64, 3)), (2, 2, 0)).astype(np.uint8)
    image[:, :, 0] //= 2
    image = image + np.uint8(60)
    errors = [np.abs(through_jpeg(image, q).astype(int) - image).mean() for q in (95, 60, 20)]
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < 2
    with io.BytesIO() as buffer:
        Image.fromarray(image).save(buffer, "JPEG", quality=75)
        other = np.asarray(Image.open(buffer))
    assert np.abs(through_jpeg(image, 75).astype(int) - other).mean() < 1.5


def test_the_last_change_is_the_same_map_for_both_images(image):
    recipe = Recipe(final_chance=1, jpeg_chance=0)
    order = np.random.default_rng(2).permutation(image.shape[0] * image.shape[1])
    shuffled = image.reshape(-1, 3)[order].reshape(image.shape)
    for seed in range(10):
        first, second = after_blending((image, shuffled), np.random.default_rng(seed), recipe)
        np.testing.assert_array_equal(first.reshape(-1, 3)[order].reshape(image.shape), second)
        assert (first != image).any()


def test_the_last_change_may_be_none(image):
    recipe = Recipe(final_chance=0, jpeg_chance=0)
    first, second = after_blending((image, image), np.random.default_rng(0), recipe)
    assert first is second is image


def test_the_first_change_is_small_but_a_change():
    image = np.full((32, 32, 3), 128, np.uint8)
    changes = [before_blending(image, np.random.default_rng(seed), Recipe()).astype(int) - 128 for seed in range(300)]
    size = np.abs(changes).max(axis=(1, 2, 3))
    assert size.max() <= 20 + 0.1 * 255 + 0.2 * 128 + 3
    assert np.median(size) > 3


def test_draws_do_not_depend_on_what_happens(image):
    after = []
    for chance in (0, 1):
        rng = np.random.default_rng(3)
        after_blending((image, image), rng, Recipe(final_chance=chance, jpeg_chance=chance))
        before_blending(image, rng, Recipe(shift_chance=chance))
        after.append(rng.random())
    assert after[0] == after[1]
