import pytest
import torch
from torch import nn
from torch.nn import functional as F

from corit.model.pairs import make_counterparts, pair_loss, real_rows, split_pairs
from gsnr_toolkit.errors import ProbeError
from tests.support.towers import make_detector, make_images

IMAGES, OTHERS, LABELS = torch.zeros(3, 3, 4, 4), torch.ones(3, 3, 4, 4), torch.tensor([0, 1, 0])


@pytest.mark.parametrize(
    ("batch", "paired", "labelled"),
    [
        (IMAGES, False, False),
        ((IMAGES, LABELS), False, True),
        ((IMAGES, OTHERS), True, False),
        ((IMAGES, OTHERS, LABELS), True, True),
        ([IMAGES, OTHERS, LABELS], True, True),
        (((IMAGES, OTHERS), LABELS), True, True),
        ({"images": IMAGES, "counterparts": OTHERS, "labels": LABELS}, True, True),
        ({"images": IMAGES, "labels": LABELS}, False, True),
    ],
)
def test_forms_of_batches(batch, paired, labelled):
    pairs = split_pairs(batch)
    assert pairs.images is IMAGES
    assert pairs.counterparts is (OTHERS if paired else None)
    assert pairs.labels is (LABELS if labelled else None)


def test_other_forms_are_refused():
    with pytest.raises(ProbeError, match=r"expected a batch \(images, counterparts, labels\).*got NoneType in place"):
        split_pairs({"pixels": IMAGES, "labels": LABELS})
    with pytest.raises(ProbeError, match=r"expected a batch \(inputs, labels\)"):
        split_pairs("images")


def test_real_images_alone():
    pairs = real_rows(split_pairs((IMAGES, OTHERS, LABELS)))
    assert (len(pairs.images), len(pairs.counterparts), pairs.labels.tolist()) == (2, 2, [0, 0])
    assert len(real_rows(split_pairs(IMAGES)).images) == 3


def test_counterparts_are_made_where_there_are_none():
    assert torch.equal(make_counterparts(IMAGES, None, lambda images: images + 1), OTHERS)
    assert make_counterparts(IMAGES, OTHERS, None) is OTHERS
    assert make_counterparts(IMAGES, OTHERS.double(), None).dtype == torch.float32
    with pytest.raises(ProbeError, match=r"set detector\.counterpart"):
        make_counterparts(IMAGES, None, None)
    with pytest.raises(ProbeError, match=r"of shape \(3, 3, 4, 4\), got \(2, 3, 4, 4\)"):
        make_counterparts(IMAGES, None, lambda images: images[:2])
    with pytest.raises(ProbeError, match="got ndarray"):
        make_counterparts(IMAGES, None, lambda images: images.numpy())


def test_the_loss_is_the_cross_entropy_of_the_logits():
    detector, images = make_detector(), make_images(3)
    batch = (images, images.flip(-1), LABELS)
    expected = F.binary_cross_entropy_with_logits(detector(images, images.flip(-1)), LABELS.float(), reduction="none")
    torch.testing.assert_close(pair_loss(detector, batch), expected)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(768, 1))
    expected = F.binary_cross_entropy_with_logits(plain(images)[:, 0], LABELS.float(), reduction="none")
    torch.testing.assert_close(pair_loss(plain, batch), expected)
    with pytest.raises(ProbeError, match="a batch with labels"):
        pair_loss(plain, images)
