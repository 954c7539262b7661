import numpy as np
import pytest
import torch
from PIL import Image

from gsnr_toolkit.data.transforms import CLIP_MEAN, CLIP_STD, fit_square, image_to_tensor


@pytest.fixture
def wide():
    """80 x 40: red, then a green square in the middle, then blue."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :20, 0] = pixels[:, 20:60, 1] = pixels[:, 60:, 2] = 255
    return Image.fromarray(pixels)


def test_shortest_keeps_the_aspect_ratio_and_cuts_the_centre(wide):
    pixels = np.asarray(fit_square(wide, 20, "shortest")).astype(int)
    assert pixels.shape == (20, 20, 3)
    np.testing.assert_array_equal(pixels[:, 2:-2], np.broadcast_to([0, 255, 0], (20, 16, 3)))


def test_squash_keeps_everything(wide):
    pixels = np.asarray(fit_square(wide, 20, "squash"))
    assert pixels[10, 0].argmax() == 0
    assert pixels[10, 19].argmax() == 2


def test_crop_does_not_resample():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 33, 3), dtype=np.uint8)
    cropped = np.asarray(fit_square(Image.fromarray(pixels), 20, "crop"))
    np.testing.assert_array_equal(cropped, pixels[5:25, 6:26])


@pytest.mark.parametrize("fit", ["shortest", "squash", "crop"])
def test_an_image_of_the_right_size_is_untouched(fit):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(fit_square(Image.fromarray(pixels), 20, fit)), pixels)


@pytest.mark.parametrize("size", [(7, 5), (640, 11), (3, 3)])
@pytest.mark.parametrize("fit", ["shortest", "squash", "crop"])
def test_any_size_becomes_the_square(size, fit):
    assert fit_square(Image.new("RGBA", size), 16, fit).size == (16, 16)


def test_normalisation_is_that_of_the_formula():
    pixels = np.random.default_rng(1).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    expected = (pixels / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    tensor = image_to_tensor(pixels, 6)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


def test_agrees_with_the_preprocessing_of_open_clip(wide):
    transform = pytest.importorskip("open_clip").image_transform(20, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    torch.testing.assert_close(image_to_tensor(wide, 20), transform(wide))


def test_grey_images_get_three_channels():
    assert image_to_tensor(np.zeros((9, 9), np.uint8), 4).shape == (3, 4, 4)


def test_floats_are_refused():
    with pytest.raises(TypeError, match=r"expected an image of dtype uint8.*got float64"):
        image_to_tensor(np.zeros((4, 4, 3)), 4)


def test_an_unknown_fit_is_refused():
    with pytest.raises(ValueError, match="one of shortest, squash, crop, got 'stretch'"):
        fit_square(Image.new("RGB", (4, 4)), 2, "stretch")
