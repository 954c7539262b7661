"""Tiny visual transformers of open_clip with random weights, of every kind that CoRIT supports."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from corit.model.detector import CoRIT
from corit.model.tower import blocks_of
from gsnr_toolkit.models.clip import Detector

LAYERS, WIDTH, SIZE, PATCH = 3, 16, 16, 4
PATCHES = (SIZE // PATCH) ** 2

TOWERS: dict[str, dict[str, Any]] = {
    "nn.MultiheadAttention": {},
    "LayerScale, average pooling": {"ls_init_value": 0.5, "pool_type": "avg", "final_ln_after_pool": True},
    "no first norm, sines as positions": {"no_ln_pre": True, "pos_embed_type": "sin_cos_2d"},
    "attentional pooling": {"attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 2},
    "own attention": {
        "qk_norm": True,
        "scale_heads": True,
        "scale_attn": True,
        "scale_attn_inner": True,
        "scale_fc": True,
    },
    "own attention, plain": {"block_type": "custom"},
}


def make_tower(kind: str = "nn.MultiheadAttention", seed: int = 0, **sizes: Any) -> nn.Module:
    """A tower of three blocks of width 16 on images of 16 pixels, in eval mode."""
    from open_clip.transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = {"image_size": SIZE, "patch_size": PATCH, "width": WIDTH, "layers": LAYERS, "heads": 2}
        return VisionTransformer(**{**shape, "mlp_ratio": 2.0, "output_dim": 8, **TOWERS[kind], **sizes}).eval()


def make_detector(kind: str = "nn.MultiheadAttention", seed: int = 0, **options: Any) -> CoRIT:
    """CoRIT on a tiny tower; anchors are far apart on a grid of 4 by 4 with a radius of 1."""
    sizes = options.pop("sizes", {})
    encoder = Detector(make_tower(kind, seed, **sizes), 8, name="tiny", image_size=SIZE)
    return CoRIT.from_encoder(encoder, **{"num_regions": 3, "nms_radius": 1, "counterpart": None, **options})


def blurred(images: Tensor) -> Tensor:
    """Imitate self-blended images: average the middle of each image over 3 by 3 pixels."""
    middle = slice(images.shape[-1] // 4, -(images.shape[-1] // 4))
    smooth = nn.functional.avg_pool2d(images, 3, 1, 1)
    inside = torch.zeros_like(images[:1, :1])
    inside[..., middle, middle] = 1
    return images * (1 - inside) + smooth * inside


def make_images(count: int = 5, seed: int = 1, size: int = SIZE) -> Tensor:
    """Random images."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def own_layers(encoder: nn.Module, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Record the input of the first block and the output of each block during the encoder's own forward."""
    seen: list[Tensor] = []
    hooks = [encoder.transformer.resblocks[0].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))]
    hooks += [block.register_forward_hook(lambda _m, _i, out: seen.append(out)) for block in blocks_of(encoder)]
    output = encoder(images)
    for hook in hooks:
        hook.remove()
    return seen, output
