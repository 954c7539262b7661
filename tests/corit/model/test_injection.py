import pytest
import torch

from corit.model.injection import attention_mask, inject, region_step
from corit.model.regions import Regions
from corit.model.tower import blocks_of, iter_layers
from tests.support.towers import LAYERS, TOWERS, WIDTH, blurred, make_detector, make_images, make_tower, own_layers

VALID = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])


def members_of(valid, tokens=16, seed=0):
    """Random members of the regions that exist; every such region has some."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(0, valid.shape[1] + 1, (len(valid), tokens), generator=generator)
    place[:, : valid.shape[1]] = torch.arange(valid.shape[1])
    return (place[..., None] == torch.arange(valid.shape[1])) & valid[:, None]


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("cgp_layer", [2, "each"])
def test_frozen_tokens_stay_the_encoders_bit_for_bit(kind, grad, cgp_layer):
    detector, images = make_detector(kind, cgp_layer=cgp_layer), make_images()
    with torch.set_grad_enabled(grad):
        expected, _ = own_layers(detector.encoder, images)
        look = detector._look(images, blurred(images))
    assert all(torch.equal(mine, own) for mine, own in zip(look.tokens, expected, strict=True))
    assert len(look.region_tokens) == LAYERS
    assert look.regions[0].valid.any()


@pytest.mark.parametrize("kind", TOWERS)
def test_under_the_mask_frozen_tokens_do_not_see_regions(kind):
    block = blocks_of(make_tower(kind).double())[1]
    frozen, regions = torch.randn(3, 5, WIDTH).double(), 10 * torch.randn(3, 3, WIDTH).double()
    mask = attention_mask(VALID, 5, block.attn.num_heads, torch.float64)
    together = block(torch.cat([frozen, regions], 1), attn_mask=mask)
    torch.testing.assert_close(together[:, :5], block(frozen))
    unmasked = block(torch.cat([frozen, regions], 1))[:, :5]
    assert (unmasked - block(frozen)).abs().max() > 1e-3  # without it they do


@pytest.mark.parametrize("kind", TOWERS)
def test_a_region_token_sees_frozen_tokens_and_regions_that_exist(kind):
    """Against the block run without any mask on just the tokens that a region may see, one region at a time."""
    block = blocks_of(make_tower(kind).double())[1]
    frozen, regions = torch.randn(3, 5, WIDTH).double(), torch.randn(3, 3, WIDTH).double()
    stepped = region_step(block, frozen, regions, VALID)
    for i in range(3):
        for k in range(3):
            seen = [j for j in range(3) if VALID[i, j] or j == k]
            sequence = torch.cat([frozen[i], regions[i, seen]])[None]
            torch.testing.assert_close(stepped[i, k], block(sequence)[0, 5 + seen.index(k)])


@pytest.mark.parametrize("kind", TOWERS)
def test_injection_against_a_loop_over_images(kind):
    encoder = make_tower(kind).double()
    tokens = list(iter_layers(encoder, make_images(3).double()))
    members = members_of(VALID)
    regions = Regions(torch.zeros(3, 3, dtype=torch.int64), VALID, members)
    found = inject(blocks_of(encoder), tokens, [regions] * LAYERS)
    for i in range(3):
        live = [k for k in range(3) if VALID[i, k]]
        token = {k: torch.zeros(WIDTH).double() for k in live}
        for layer, block in enumerate(blocks_of(encoder)):
            frozen = tokens[layer][i]
            for k in live:
                token[k] = token[k] + frozen[1:][members[i, :, k]].mean(0)
            if live:
                sequence = torch.cat([frozen, torch.stack([token[k] for k in live])])[None]
                left = block(sequence)[0, 17:]
                token = {k: left[j] for j, k in enumerate(live)}
            for k in live:
                torch.testing.assert_close(found[layer][i, k], token[k])
        assert all(layer[i].isfinite().all() for layer in found)


def test_float32_is_near_float64():
    tokens = list(iter_layers(make_tower(), make_images(3)))
    regions = Regions(torch.zeros(3, 3, dtype=torch.int64), VALID, members_of(VALID))
    single = inject(blocks_of(make_tower()), tokens, [regions] * LAYERS)
    double = inject(blocks_of(make_tower().double()), [z.double() for z in tokens], [regions] * LAYERS)
    torch.testing.assert_close(single[-1].double(), double[-1], rtol=1e-4, atol=1e-4)


def test_the_counterpart_is_not_run_beyond_the_layer_whose_proxy_is_used():
    ran = []
    detector = make_detector(cgp_layer=1)
    for number, block in enumerate(blocks_of(detector.encoder), 1):
        block.register_forward_hook(lambda _m, _i, _o, number=number: ran.append(number))
    images = make_images()
    detector(images, blurred(images))
    assert ran == [1, 1, 2, 3]
