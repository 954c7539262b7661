"""``clip-lab``: a shortened embedded CLIP, for sweeps of hundreds of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gsnr_toolkit.models.clip import Detector, shipped_file, visual_tower
from gsnr_toolkit.models.registry import ModelInfo
from gsnr_toolkit.models.weights_files import WeightsError, load_into, read_state_dict, sha256

__all__ = ["build_lab"]

BLOCKS, IMAGE_SIZE = 6, 32


def build_lab(name: str, info: ModelInfo, *, weights: str, seed: int = 0, num_outputs: int = 1) -> Detector:
    """Build a detector on the first 6 blocks of ``clip-demo``, for images of 32 pixels.

    The weights are those of ``clip-demo``; its grid of 8 x 8 positions is resampled to 4 x 4. The final norm and the
    projection were trained after 8 blocks. The features are therefore still semantic, but not aligned with the text
    tower.

    Args:
        name: The model's name.
        info: Its row in the registry.
        weights: ``"shipped"`` or ``"random"``.
        seed: Seed of the head's weights, and of the encoder's if they are random.
        num_outputs: Outputs of the head.

    Returns:
        The detector, float32, on the CPU.

    Raises:
        WeightsError: If other weights are requested.
    """
    if weights not in (info.weights, "random"):
        raise WeightsError(
            f"expected weights {info.weights!r} or 'random' for {name}, got {weights!r}; leave weights out, or pass "
            "'random'"
        )
    config = json.loads(shipped_file("clip-demo.json").read_text(encoding="utf-8"))
    config["vision_cfg"] |= {"layers": BLOCKS, "image_size": IMAGE_SIZE}
    encoder = visual_tower(config, quick_gelu=False, seed=seed)
    provenance: dict[str, Any] = {"model": name, "architecture": "clip-demo.json", "weights": weights, "seed": seed}
    if weights != "random":
        path = shipped_file("clip-demo.safetensors")
        side = IMAGE_SIZE // config["vision_cfg"]["patch_size"]
        load_into(encoder, _shortened(read_state_dict(path), side), origin=str(path))
        provenance |= {"path": path.name, "sha256": sha256(path)}
    return Detector(
        encoder,
        feature_dim=config["embed_dim"],
        name=name,
        image_size=IMAGE_SIZE,
        num_outputs=num_outputs,
        seed=seed,
        provenance=provenance,
    )


def _shortened(state: Mapping[str, Tensor], side: int) -> dict[str, Tensor]:
    """Return the tensors of the visual tower without the later blocks, with the grid of positions resampled."""
    tower = {key.removeprefix("visual."): tensor for key, tensor in state.items() if key.startswith("visual.")}
    dropped = [key for key in tower if _block(key) >= BLOCKS]
    kept = {key: tensor for key, tensor in tower.items() if key not in dropped}
    return {**kept, "positional_embedding": _resampled(tower["positional_embedding"].float(), side)}


def _block(key: str) -> int:
    number = key.partition("resblocks.")[2].partition(".")[0]
    return int(number) if number else -1


def _resampled(positions: Tensor, side: int) -> Tensor:
    """Resample positions (1 + T, d), of which the first is the class token's, to a grid of another side."""
    old = round((len(positions) - 1) ** 0.5)
    grid = positions[1:].T.reshape(1, -1, old, old)
    resized = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([positions[:1], resized.reshape(positions.shape[1], -1).T])
