import numpy as np
import pytest
import torch

from corit.sbi import SOURCE_ONLY, Face, Recipe, counterpart, counterpart_and_mask, self_blend
from gsnr_toolkit.data.demo.dataset import open_demo
from gsnr_toolkit.data.transforms import CLIP_MEAN, CLIP_STD, image_to_tensor
from gsnr_toolkit.errors import ProbeError


@pytest.fixture(scope="module")
def demo():
    return open_demo("nt", size=8, image_size=64, split="test")


@pytest.fixture(scope="module")
def pixels(demo):
    return torch.stack([torch.from_numpy(demo.load_image(row).transpose(2, 0, 1)) for row in range(8)])


@pytest.fixture(scope="module")
def images(demo):
    return torch.stack([demo[row][0] for row in range(8)])


def test_it_is_the_blend_of_the_pixels(demo, images):
    blends, masks = counterpart_and_mask(images)
    for row in range(8):
        pair = self_blend(demo.load_image(row), recipe=SOURCE_ONLY)
        np.testing.assert_array_equal(masks[row, 0], pair.mask)
        torch.testing.assert_close(blends[row], image_to_tensor(pair.blend, 64), rtol=0, atol=2e-6)


def test_bytes_and_normalised_images_agree(pixels, images):
    whole = counterpart(pixels)
    assert whole.dtype == torch.uint8
    normal = (whole.float() / 255 - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    torch.testing.assert_close(counterpart(images), normal, rtol=0, atol=2e-6)
    torch.testing.assert_close(counterpart(images.double()).float(), normal, rtol=0, atol=2e-6)


def test_outside_the_mask_nothing_changes_and_inside_something_does(images):
    blends, masks = counterpart_and_mask(images)
    outside = (masks == 0).expand_as(images)
    torch.testing.assert_close(blends[outside], images[outside], rtol=0, atol=0)
    assert (blends != images).flatten(1).any(dim=1).all()
    assert masks.shape == (8, 1, 64, 64)
    assert 0 <= masks.min() < masks.max() <= 1


def test_it_depends_on_the_image_alone(images):
    whole = counterpart(images)
    torch.manual_seed(7)
    order = torch.randperm(8)
    torch.testing.assert_close(counterpart(images[order]), whole[order], rtol=0, atol=0)
    torch.testing.assert_close(counterpart(images[3:4]), whole[3:4], rtol=0, atol=0)
    channels_last = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(counterpart(channels_last), whole, rtol=0, atol=0)


def test_other_statistics_give_the_same_counterpart(demo, pixels):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    images = torch.stack([image_to_tensor(demo.load_image(row), 64, mean, std) for row in range(8)])
    got = counterpart(images, mean=mean, std=std) * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    torch.testing.assert_close((got * 255).round().to(torch.uint8), counterpart(pixels), rtol=0, atol=0)


def test_faces_shape_the_masks(demo, images):
    faces = [Face(demo.pair(row).landmarks) if row % 2 == 0 else None for row in range(8)]
    blends, masks = counterpart_and_mask(images, faces=faces)
    plain, generic = counterpart_and_mask(images)
    torch.testing.assert_close(blends[1::2], plain[1::2], rtol=0, atol=0)
    centre = np.stack([face.landmarks.mean(axis=0) for face in faces[::2]]).round().astype(int)
    assert all(mask[0, y, x] > 0.2 for mask, (x, y) in zip(masks[::2], centre, strict=True))
    assert not torch.equal(masks[::2], generic[::2])


def test_no_gradient_and_no_change_to_what_came_in(images):
    given = images.clone().requires_grad_(True)
    blends = counterpart(given)
    assert not blends.requires_grad
    torch.testing.assert_close(given.detach(), images, rtol=0, atol=0)


def test_an_empty_batch_is_an_empty_batch():
    assert counterpart(torch.zeros(0, 3, 32, 32)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(3, 32, 32), {}, r"\(N, 3, H, W\), got shape \(3, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.float16), {}, "got torch.float16, too coarse"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), {}, "got torch.int64"),
        (torch.full((1, 3, 32, 32), 200.0), {}, "grey levels from .* instead of 0 to 255"),
        (torch.full((1, 3, 32, 32), torch.nan), {}, "grey levels from nan"),
        (torch.zeros(2, 3, 32, 32), {"faces": [None]}, "each of 2 images, got 1"),
        (torch.zeros(1, 3, 32, 32), {"recipe": Recipe()}, "start from SOURCE_ONLY"),
        (torch.zeros(1, 3, 8, 8), {}, r"at least 16 pixels a side, got \(8, 8\)"),
    ],
)
def test_other_tensors_are_errors(images, options, message):
    with pytest.raises(ProbeError, match=message):
        counterpart(images, **options)
