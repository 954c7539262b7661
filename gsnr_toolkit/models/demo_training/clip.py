"""The whole embedded CLIP, text tower included: build, load and evaluate it on images and prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch import Tensor

from gsnr_toolkit.data.demo.captions import prompt, tokenize
from gsnr_toolkit.data.transforms import CLIP_MEAN, CLIP_STD
from gsnr_toolkit.models.clip import WEIGHTS_DIR

CONFIG_PATH = WEIGHTS_DIR / "clip-demo.json"
WEIGHTS_PATH = WEIGHTS_DIR / "clip-demo.safetensors"


def build_demo_clip(seed: int = 0) -> CLIP:
    """Build a randomly initialised model of the shipped configuration.

    Args:
        seed: Seed of the initial weights; the caller's random state is not changed.

    Returns:
        An :class:`open_clip.model.CLIP`.
    """
    config: dict[str, Any] = json.loads(CONFIG_PATH.read_text())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIP(**config)


def load_demo_clip(path: Path = WEIGHTS_PATH) -> CLIP:
    """Load the pretrained model, in eval mode and float32.

    Args:
        path: A safetensors file with the full state dictionary.

    Returns:
        An :class:`open_clip.model.CLIP`.

    Raises:
        FileNotFoundError: If the file does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"expected weights at {path}, but there is no such file; run `python -m "
            f"gsnr_toolkit.models.demo_training.pretrain --output {path}`"
        )
    model = build_demo_clip()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model.eval()


def normalize(pixels: NDArray[np.uint8]) -> Tensor:
    """Normalise pixels for the model.

    Args:
        pixels: Images (N, H, W, 3), uint8.

    Returns:
        Images (N, 3, H, W), float32, normalised with CLIP's mean and standard deviation.
    """
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float().div_(255)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return images.sub_(mean).div_(std)


def _chunks(pixels: NDArray[np.uint8], step: int = 256) -> Iterator[Tensor]:
    for start in range(0, len(pixels), step):
        yield normalize(pixels[start : start + step])


@torch.no_grad()
def embed_images(model: CLIP, pixels: NDArray[np.uint8]) -> Tensor:
    """Compute the output of the visual tower, which a linear probe uses as frozen features.

    Args:
        model: The model.
        pixels: Images (N, 64, 64, 3), uint8.

    Returns:
        Features (N, embed_dim), not normalised.
    """
    return torch.cat([model.visual(images) for images in _chunks(pixels)])


@torch.no_grad()
def zero_shot(model: CLIP, features: Tensor, name: str, values: tuple[str, ...]) -> NDArray[np.int64]:
    """Classify images zero-shot: choose the attribute value whose prompt is nearest to each image.

    Args:
        model: The model.
        features: Image features (N, embed_dim) from :func:`embed_images`.
        name: Attribute name.
        values: Its values.

    Returns:
        Codes of the chosen values, (N,).
    """
    tokens = torch.from_numpy(tokenize([prompt(name, value) for value in values]))
    texts = model.encode_text(tokens, normalize=True)
    return (features @ texts.T).argmax(dim=1).numpy()
