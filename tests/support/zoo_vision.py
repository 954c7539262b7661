"""The zoo's image models: open_clip towers, timm and torchvision, at the smallest sizes their classes take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.cases import Case


def images(size: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Five random images with labels 0 to 2."""
    return lambda: (torch.randn(5, 3, size, size), torch.tensor([0, 1, 2, 0, 1]))


def clip_tower(**options: Any) -> nn.Module:
    """open_clip's visual transformer, two blocks of width 16, with a head."""
    from open_clip.transformer import VisionTransformer

    sizes = {"image_size": 16, "patch_size": 4, "width": 16, "layers": 2, "heads": 2, "mlp_ratio": 2.0}
    return nn.Sequential(VisionTransformer(**sizes, output_dim=8, **options), nn.Linear(8, 3))


def clip_resnet() -> nn.Module:
    """open_clip's ModifiedResNet: three-layer stem, average-pool downsampling, attention pooling."""
    from open_clip.modified_resnet import ModifiedResNet

    return nn.Sequential(ModifiedResNet([1, 1, 1, 1], output_dim=8, heads=4, image_size=32, width=4), nn.Linear(8, 3))


def clip_timm(name: str, width: int, **options: Any) -> nn.Module:
    """open_clip's TimmModel with one of timm's test models (it does not pass sizes on) and a head."""
    from open_clip.timm_model import TimmModel

    return nn.Sequential(TimmModel(name, embed_dim=width, **options), nn.Linear(width, 3))


def timm_vit(**options: Any) -> nn.Module:
    """timm's VisionTransformer, two blocks of width 16."""
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
    return VisionTransformer(**sizes, num_classes=3, **options)


def timm_model(name: str, **options: Any) -> nn.Module:
    """Build a timm architecture by name, with other sizes."""
    import timm

    return timm.create_model(name, num_classes=3, **options)


def mixer() -> nn.Module:
    """timm's MLP-Mixer: weights along tokens as well as along channels."""
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(num_classes=3, img_size=16, patch_size=4, num_blocks=2, embed_dim=16)


def regnet() -> nn.Module:
    """timm's RegNet with squeeze-and-excitation: grouped convolutions, BatchNorm."""
    from timm.models.regnet import RegNet, RegNetCfg

    return RegNet(RegNetCfg(depth=6, w0=8, wa=10.0, wm=2.0, group_size=4, se_ratio=0.25, stem_width=8), num_classes=3)


def mobilenet_v3() -> nn.Module:
    """timm's MobileNetV3: depthwise convolutions, hard swish, in-place activations."""
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.mobilenetv3 import MobileNetV3

    blocks = [["ds_r1_k3_s2_e1_c8_se0.25_nre"], ["ir_r2_k5_s2_e2_c12_se0.25"], ["cn_r1_k1_s1_c24"]]
    return MobileNetV3(decode_arch_def(blocks), num_classes=3, stem_size=8, num_features=32, act_layer=nn.Hardswish)


def narrow_resnet() -> nn.Module:
    """torchvision's ResNet-18 with GroupNorm; the class fixes its widths, so stages are narrowed after construction."""
    from torchvision.models.resnet import BasicBlock, ResNet

    class Narrow(ResNet):
        def _make_layer(self, block: Any, planes: int, *args: Any, **options: Any) -> nn.Sequential:
            return super()._make_layer(block, planes // 8, *args, **options)

    model = Narrow(BasicBlock, [2, 2, 2, 2], norm_layer=lambda channels: nn.GroupNorm(2, channels))
    model.fc = nn.Linear(64, 3)
    return model


def torchvision_model(build: str, **options: Any) -> nn.Module:
    """Build a torchvision architecture by the name of its builder or class."""
    import torchvision.models as models

    return getattr(models, build)(num_classes=3, **options)


TINY_VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
TINY_EVA = {**TINY_VIT, "ref_feat_shape": None}
TINY_SWIN = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2)}
TINY_CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)}
TINY_PVT = {"depths": (1, 1, 1, 1), "embed_dims": (8, 8, 16, 16), "num_heads": (1, 2, 2, 2), "mlp_ratios": (2,) * 4}
TINY_TORCHVISION_VIT = {"image_size": 16, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}

OPEN_CLIP: dict[str, Case] = {
    "open_clip ViT": Case(clip_tower, images(16)),
    "open_clip ViT, LayerScale, average pooling": Case(
        lambda: clip_tower(ls_init_value=1e-5, pool_type="avg", final_ln_after_pool=True), images(16)
    ),
    "open_clip ViT, own attention, q and k normalised": Case(
        lambda: clip_tower(qk_norm=True, scale_heads=True, scale_attn=True, scale_attn_inner=True, scale_fc=True),
        images(16),
    ),
    "open_clip ViT, attentional pooling": Case(
        lambda: clip_tower(attentional_pool=True, attn_pooler_queries=3, attn_pooler_heads=2), images(16)
    ),
    "open_clip ModifiedResNet": Case(clip_resnet, images(32)),
    "open_clip TimmModel, ConvNeXt": Case(lambda: clip_timm("test_convnext", 8, proj="mlp"), images(32)),
    "open_clip TimmModel, SigLIP head": Case(lambda: clip_timm("test_vit", 64, pool="map", proj="none"), images(160)),
}

TIMM: dict[str, Case] = {
    "timm ViT": Case(timm_vit, images(16)),
    "timm ViT, DINOv2: registers, LayerScale, SwiGLU": Case(
        lambda: timm_model("vit_giant_patch14_reg4_dinov2", **TINY_VIT, mlp_ratio=2), images(16)
    ),
    "timm ViT, q and k normalised, average pooling": Case(
        lambda: timm_vit(qk_norm=True, global_pool="avg", class_token=False), images(16)
    ),
    "timm ViT, SigLIP map pooling": Case(lambda: timm_vit(global_pool="map", class_token=False), images(16)),
    "timm DeiT, distilled": Case(lambda: timm_model("deit_tiny_distilled_patch16_224", **TINY_VIT), images(16)),
    "timm EVA-02": Case(lambda: timm_model("eva02_tiny_patch14_224", **TINY_EVA), images(16)),
    "timm ViT, learned RoPE": Case(lambda: timm_model("vit_small_patch16_rope_mixed_224", **TINY_VIT), images(16)),
    "timm relative position ViT": Case(lambda: timm_model("vit_relpos_small_patch16_224", **TINY_VIT), images(16)),
    "timm Swin": Case(lambda: timm_model("swin_tiny_patch4_window7_224", **TINY_SWIN), images(32)),
    "timm Swin V2": Case(lambda: timm_model("swinv2_tiny_window8_256", **TINY_SWIN), images(32)),
    "timm ConvNeXt": Case(lambda: timm_model("convnext_atto", **TINY_CONVNEXT), images(32)),
    "timm ConvNeXt V2": Case(lambda: timm_model("convnextv2_atto", **TINY_CONVNEXT), images(32)),
    "timm ResNet": Case(lambda: timm_model("resnet10t", channels=(8, 8, 16, 16), stem_width=4), images(32)),
    "timm EfficientNet": Case(lambda: timm_model("test_efficientnet", channel_multiplier=0.5), images(32)),
    "timm EfficientNet, EvoNorm": Case(
        lambda: timm_model("test_efficientnet_evos", channel_multiplier=0.5), images(32)
    ),
    "timm MLP-Mixer": Case(mixer, images(16)),
    "timm RegNet": Case(regnet, images(32)),
    "timm MobileNetV3": Case(mobilenet_v3, images(32)),
    "timm NFNet": Case(lambda: timm_model("test_nfnet", channels=(8, 8, 16, 16), stem_chs=8), images(32)),
    "timm PVT V2": Case(lambda: timm_model("pvt_v2_b0", **TINY_PVT), images(64)),
    "timm CoAtNet": Case(lambda: timm_model("test_coatnet", img_size=64, embed_dim=(16, 32, 32, 48)), images(64)),
    "timm MambaOut": Case(lambda: timm_model("test_mambaout"), images(64)),
}

TORCHVISION: dict[str, Case] = {
    "torchvision ResNet, GroupNorm": Case(narrow_resnet, images(32)),
    "torchvision ViT": Case(
        lambda: torchvision_model("VisionTransformer", mlp_dim=32, **TINY_TORCHVISION_VIT), images(16)
    ),
    "torchvision ShuffleNet V2": Case(
        lambda: torchvision_model("ShuffleNetV2", stages_repeats=[2, 2, 2], stages_out_channels=[8, 16, 24, 32, 48]),
        images(32),
    ),
    "torchvision MobileNet V2": Case(lambda: torchvision_model("mobilenet_v2", width_mult=0.1), images(32)),
    "torchvision DenseNet": Case(
        lambda: torchvision_model("DenseNet", growth_rate=4, block_config=(2, 2), num_init_features=8), images(32)
    ),
}
