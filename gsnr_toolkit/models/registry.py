"""Models by name: the embedded CLIP, other visual towers of CLIP, and the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gsnr_toolkit.support.arguments import COUNT, NAME, SEED, check_arguments, optional
from gsnr_toolkit.support.lookup import Registry, TargetError, call_with_known, is_target, load_target

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "ModelInfo", "build_model"]


@dataclass(frozen=True)
class ModelInfo:
    """A model that can be built by name.

    Attributes:
        description: One line on what it is.
        architecture: The name of its configuration in open_clip, or ``""`` if it is shipped with this package.
        weights: The default weights: a tag of open_clip, or ``"shipped"``.
        target: ``"module:function"`` that builds it from ``(name, info, weights, seed, num_outputs)``.
        probe_lr: Default learning rate of a short probing run. A large one would destroy a pretrained encoder.
    """

    description: str
    architecture: str
    weights: str = "openai"
    target: str = "gsnr_toolkit.models.clip:build_clip"
    probe_lr: float = 1e-4


MODELS: Registry[ModelInfo] = Registry(
    "model",
    {
        "clip-demo": ModelInfo("small CLIP trained on procedural faces, shipped, 64 px", "", "shipped", probe_lr=1e-3),
        "clip-lab": ModelInfo(
            "clip-demo's first 6 blocks at 32 px: a fifth of its cost, for sweeps",
            "",
            "shipped",
            target="gsnr_toolkit.models.lab:build_lab",
            probe_lr=1e-3,
        ),
        "clip-vit-b32": ModelInfo("CLIP ViT-B/32, 12 blocks, 224 px", "ViT-B-32"),
        "clip-vit-b16": ModelInfo("CLIP ViT-B/16, 12 blocks, 224 px", "ViT-B-16"),
        "clip-vit-l14": ModelInfo("CLIP ViT-L/14, 24 blocks, 224 px", "ViT-L-14"),
        "clip-vit-l14-336": ModelInfo("CLIP ViT-L/14, 24 blocks, 336 px", "ViT-L-14-336"),
        "clip-vit-h14": ModelInfo("OpenCLIP ViT-H/14, 32 blocks, 224 px", "ViT-H-14", "laion2b_s32b_b79k"),
        "clip-convnext-b": ModelInfo("OpenCLIP ConvNeXt-B, 256 px", "convnext_base_w", "laion2b_s13b_b82k"),
    },
    hint="Or module:function for your own model.",
)


def build_model(name: str, *, weights: str | None = None, seed: int = 0, num_outputs: int = 1) -> nn.Module:
    """Build a detector by name.

    Args:
        name: One of :data:`MODELS`, or ``"module:function"``: the user's own function, which returns a
            ``torch.nn.Module``. It is called with those of ``weights``, ``seed`` and ``num_outputs`` that are among
            its parameters. :func:`gsnr_toolkit.models.spec.input_spec` says how its image size is found.
        weights: A tag of open_clip (``"openai"``, ``"laion2b_s32b_b82k"``), the path of a state dict
            (``.safetensors``, ``.pt``, ``.pth``, ``.bin``), or ``"random"`` for an untrained encoder. The default
            is the model's entry in :data:`MODELS`. Other weights are never substituted for missing ones.
        seed: Seed of the head's initial weights, and of the encoder's if they are random.
        num_outputs: 1 for a binary head with one logit per image, C for C classes.

    Returns:
        A :class:`gsnr_toolkit.models.clip.Detector`, or the result of the user's function, in train mode.

    Raises:
        UnknownNameError: If no model has this name.
        WeightsError: If the weights cannot be found or do not fit.
        TargetError: If the user's function does not return a module.

    >>> build_model("clip-vit-l41")
    Traceback (most recent call last):
    gsnr_toolkit.support.lookup.UnknownNameError: expected a known model, got 'clip-vit-l41'; choose one of ...
    """
    check_arguments(seed=(seed, SEED), num_outputs=(num_outputs, COUNT), weights=(weights, optional(NAME)))
    if is_target(name):
        return _build_own(name, weights, seed, num_outputs)
    info = MODELS[name]
    build = load_target(info.target)
    return build(name, info, weights=weights or info.weights, seed=seed, num_outputs=num_outputs)


def _build_own(name: str, weights: str | None, seed: int, num_outputs: int) -> nn.Module:
    from torch import nn

    offered: dict[str, Any] = {"weights": weights, "seed": seed, "num_outputs": num_outputs}
    required = [] if weights is None else ["weights"]
    model = call_with_known(load_target(name), offered, required)
    if not isinstance(model, nn.Module):
        raise TargetError(
            f"expected {name} to return a torch.nn.Module, got {type(model).__name__}; return the model itself"
        )
    return model
