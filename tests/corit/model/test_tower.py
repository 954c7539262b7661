import pytest
import torch
from torch import nn

from corit.model.tower import blocks_of, iter_layers, tower_of, tower_shape
from gsnr_toolkit.errors import ProbeError
from tests.support.towers import LAYERS, TOWERS, make_images, make_tower, own_layers


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("grad", [True, False])
def test_layers_are_the_encoders_own_bit_for_bit(kind, grad):
    encoder, images = make_tower(kind), make_images()
    with torch.set_grad_enabled(grad):
        expected, output = own_layers(encoder, images)
        layers = list(iter_layers(encoder, images))
        again = encoder._pool(layers[-1])[0] @ encoder.proj
    assert len(layers) == LAYERS + 1
    assert all(torch.equal(mine, own) for mine, own in zip(layers, expected, strict=True))
    assert torch.equal(again, output)


def test_blocks_beyond_the_last_layer_asked_for_are_not_run():
    encoder, ran = make_tower(), []
    for number, block in enumerate(blocks_of(encoder), 1):
        block.register_forward_hook(lambda _m, _i, _o, number=number: ran.append(number))
    assert len(list(iter_layers(encoder, make_images(), 2))) == 3
    assert ran == [1, 2]
    assert len(list(iter_layers(encoder, make_images(), 0))) == 1
    assert ran == [1, 2]


def test_sizes():
    shape = tower_shape(make_tower(image_size=(8, 12)))
    assert (shape.num_layers, shape.width, shape.grid, shape.image_size) == (3, 16, (2, 3), (8, 12))
    assert shape.num_patches == 6


def test_images_of_another_size():
    with pytest.raises(ProbeError, match=r"shape \(N, 3, 16, 16\), got \(2, 3, 8, 8\)"):
        next(iter_layers(make_tower(), torch.zeros(2, 3, 8, 8)))


def test_dropped_patches():
    encoder = make_tower(patch_dropout=0.5)
    assert len(list(iter_layers(encoder, make_images()))) == LAYERS + 1
    with pytest.raises(ProbeError, match=r"expected 17 tokens, got 9: patch dropout is active"):
        next(iter_layers(encoder.train(), make_images()))


def test_other_models_are_refused():
    with pytest.raises(ProbeError, match=r"visual transformer of open_clip .* got Linear without class_embedding"):
        tower_of(nn.Linear(2, 2))
    encoder = make_tower()
    encoder.transformer.batch_first = False
    with pytest.raises(ProbeError, match="batch_first=False"):
        tower_of(encoder)
    encoder = make_tower()
    encoder.transformer.resblocks[1] = nn.Identity()
    with pytest.raises(ProbeError, match="blocks that take an attn_mask, got Identity"):
        tower_of(encoder)


def test_the_encoder_of_a_model_is_found():
    encoder = make_tower()
    holder = nn.Module()
    holder.encoder = encoder
    assert tower_of(holder) is encoder
    assert tower_of(encoder) is encoder
