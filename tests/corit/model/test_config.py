import dataclasses

import pytest

from corit.model.config import CoRITConfig
from gsnr_toolkit.errors import ProbeError


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("num_regions", -1, "a whole number from 0 up to 64"),
        ("num_regions", 2.5, "a whole number from 0 up to 64"),
        ("num_regions", True, "a whole number from 0 up to 64"),
        ("threshold", 1.01, "a number from -1 up to 1"),
        ("threshold", "0.5", "a number from -1 up to 1"),
        ("threshold", float("nan"), "a number from -1 up to 1"),
        ("nms_radius", -1, "a whole number from 0 up to 64"),
        ("mid_layer", 0, "a whole number from 1 up to 1024"),
        ("cgp_layer", -1, "a whole number from 0 up to 1024"),
        ("cgp_layer", "all", "a whole number from 0 up to 1024"),
        ("anchors", "grid", "one of 'cgp', 'shared', 'random', 'fixed'"),
        ("normalisation", "batch", "one of 'layer', 'ln_post', 'none'"),
        ("rsi", 1, "true or false"),
        ("anchor_seed", -1, "a whole number from 0"),
    ],
)
def test_ranges(field, value, wanted):
    with pytest.raises(ProbeError, match=f"expected {field} to be {wanted}.*got {value!r}"):
        CoRITConfig(**{field: value})


def test_layers_are_filled_in():
    resolved = CoRITConfig().resolved(24, 256)
    assert (resolved.mid_layer, resolved.cgp_layer) == (12, 12)
    assert CoRITConfig(mid_layer=5).resolved(24, 256).cgp_layer == 5
    assert CoRITConfig(cgp_layer="each").resolved(24, 256).cgp_layer == "each"
    assert CoRITConfig(cgp_layer=0).resolved(24, 256).cgp_layer == 0
    assert CoRITConfig(hri=False).resolved(1, 256).mid_layer == 1


def test_an_encoder_that_is_too_small():
    with pytest.raises(ProbeError, match=r"mid_layer below the last layer of an encoder of 8 blocks, got 8"):
        CoRITConfig(mid_layer=8).resolved(8, 64)
    with pytest.raises(ProbeError, match=r"cgp_layer to be at most 8, .* got 9"):
        CoRITConfig(cgp_layer=9).resolved(8, 64)
    with pytest.raises(ProbeError, match=r"at most one region per patch, 4 of them, got num_regions=5"):
        CoRITConfig(num_regions=5).resolved(8, 4)
    with pytest.raises(ProbeError, match="an encoder of 1 blocks, got 1"):
        CoRITConfig().resolved(1, 4)


def test_plain_values_and_back():
    config = CoRITConfig(num_regions=2, cgp_layer="each", hri=False)
    assert CoRITConfig.from_dict(config.to_dict()) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rrm = False


def test_who_looks_at_counterparts():
    assert CoRITConfig().needs_counterparts
    assert CoRITConfig(anchors="random").needs_counterparts
    assert CoRITConfig(rrm=False).needs_counterparts
    assert not CoRITConfig(anchors="random", rrm=False).needs_counterparts
    assert not CoRITConfig(num_regions=0).needs_counterparts
