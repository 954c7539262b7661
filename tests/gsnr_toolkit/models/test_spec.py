from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gsnr_toolkit.data.transforms import CLIP_MEAN, CLIP_STD
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.models.spec import InputSpec, input_spec


def model_with(**attributes):
    model = nn.Linear(1, 1)
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"image_size": 64, "mean": HALF, "std": HALF}, InputSpec(64, HALF, HALF)),
        ({"image_size": (32, 32)}, InputSpec(32, CLIP_MEAN, CLIP_STD)),
        ({"image_size": 8, "mean": torch.tensor(HALF).view(3, 1, 1)}, InputSpec(8, HALF, CLIP_STD)),
        ({"image_size": 8, "mean": lambda: 0}, InputSpec(8, CLIP_MEAN, CLIP_STD)),
        ({"pretrained_cfg": {"input_size": (3, 96, 96), "mean": HALF, "std": HALF}}, InputSpec(96, HALF, HALF)),
        ({"config": SimpleNamespace(image_size=48)}, InputSpec(48)),
        ({"config": SimpleNamespace(vision_config=SimpleNamespace(image_size=40))}, InputSpec(40)),
    ],
)
def test_the_specification_is_found_where_each_library_puts_it(attributes, expected):
    assert input_spec(model_with(**attributes)) == expected


def test_a_given_size_wins():
    assert input_spec(model_with(image_size=64), image_size=32).image_size == 32


def test_an_unknown_size_is_an_error_that_says_what_to_set():
    with pytest.raises(
        ProbeError, match=r"expected Linear to have an image size, but found none; set model\.image_size"
    ):
        input_spec(model_with())


def test_an_oblong_size_is_an_error():
    with pytest.raises(ProbeError, match=r"square image size, but the model has \(32, 64\)"):
        input_spec(model_with(image_size=(32, 64)))
