"""A detector of forgeries: the visual tower of a CLIP model of open_clip, and a linear head.

The text tower is never built: it is not used and would take half of the memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gsnr_toolkit.data.transforms import CLIP_MEAN, CLIP_STD
from gsnr_toolkit.models.registry import ModelInfo
from gsnr_toolkit.models.weights_files import (
    WeightsError,
    find_tag,
    load_into,
    looks_like_path,
    read_state_dict,
    sha256,
    tag_config,
)

__all__ = ["HEAD_STD", "WEIGHTS_DIR", "Detector", "build_clip", "visual_tower"]

#: The folder of the embedded model's files.
WEIGHTS_DIR = Path(__file__).parent / "weights"

#: Standard deviation of the head's initial weights. With a head of exact zeros, every gradient of the encoder would
#: be zero at the first step, and so would every statistic of it.
HEAD_STD = 0.02


class Detector(nn.Module):
    """An image encoder and a linear head on its features.

    The features are the output of ``encoder(images)``. For CLIP's visual transformer that is the class token after
    the final norm and the projection.

    Attributes:
        encoder: Images ``(N, 3, S, S)`` to features ``(N, feature_dim)``.
        head: ``nn.Linear(feature_dim, num_outputs)``: normal weights (standard deviation 0.02), zero bias.
        name: The name by which the model was built.
        image_size: S, in pixels.
        mean: Mean by channel for the normalisation of the images, of RGB values in [0, 1].
        std: Standard deviation by channel for the normalisation.
        provenance: Origin of the weights: ``model``, ``architecture``, ``weights``, and where they apply ``path``,
            ``sha256``, ``quick_gelu``, ``seed``, ``open_clip``.

    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    >>> detector = Detector(encoder, feature_dim=5, name="tiny", image_size=2)
    >>> detector(torch.zeros(3, 3, 2, 2)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        name: str,
        image_size: int,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        num_outputs: int = 1,
        seed: int = 0,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if num_outputs < 1:
            raise ValueError(
                f"expected num_outputs to be 1 (binary) or the number of classes, got {num_outputs}; leave it out for 1"
            )
        self.encoder = encoder
        # The default initialisation would draw from the caller's random state.
        self.head = nn.utils.skip_init(nn.Linear, feature_dim, num_outputs)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.head.weight, std=HEAD_STD, generator=generator)
        nn.init.zeros_(self.head.bias)
        self.name = name
        self.image_size = image_size
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.provenance = dict(provenance or {})

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of images.

        Args:
            images: Normalised images ``(N, 3, S, S)``.

        Returns:
            Logits ``(N,)``, positive for fake; ``(N, num_outputs)`` if there are several outputs.
        """
        logits = self.head(self.encoder(images))
        return logits.squeeze(-1) if self.head.out_features == 1 else logits

    def extra_repr(self) -> str:
        """Return name, image size and origin of the weights, for ``print(model)``."""
        weights = self.provenance.get("weights", "unknown")
        return f"name={self.name!r}, image_size={self.image_size}, weights={weights!r}"


def build_clip(name: str, info: ModelInfo, *, weights: str, seed: int = 0, num_outputs: int = 1) -> Detector:
    """Build a detector on a visual tower of open_clip.

    The activation (QuickGELU or GELU) and the normalisation must fit the weights. For a tag they are the tag's. For a
    file or random weights they are those of the row's default tag, because a state dict does not contain them.

    Args:
        name: The model's name.
        info: Its row in the registry.
        weights: ``"shipped"``, a tag, a path, or ``"random"``; see
            :func:`gsnr_toolkit.models.registry.build_model`.
        seed: Seed of the head's weights, and of the encoder's if they are random.
        num_outputs: Outputs of the head.

    Returns:
        The detector, float32, on the CPU.

    Raises:
        WeightsError: If the weights cannot be found or do not fit.
    """
    import open_clip

    path = _find_weights(name, info, weights)
    config, mean, std = _configuration(info, weights)
    quick_gelu = bool(config.get("quick_gelu", False))
    encoder = visual_tower(config, quick_gelu, seed)
    provenance: dict[str, Any] = {
        "model": name,
        "architecture": info.architecture or "clip-demo.json",
        "weights": weights if path is None or not looks_like_path(weights) else "file",
        "quick_gelu": quick_gelu,
        "seed": seed,
        "open_clip": open_clip.__version__,
    }
    state: dict[str, Tensor] = {}
    if path is not None:
        state = read_state_dict(path)
        load_into(encoder, state, origin=str(path))
        given = provenance["weights"] == "file"  # the folder of a cache or of the package is no information
        provenance |= {"path": weights if given else path.name, "sha256": sha256(path)}
    detector = Detector(
        encoder,
        feature_dim=config["embed_dim"],
        name=name,
        image_size=_square(config["vision_cfg"].get("image_size", 224)),
        mean=mean,
        std=std,
        num_outputs=num_outputs,
        seed=seed,
        provenance=provenance,
    )
    _load_head(detector, state)
    return detector


def _find_weights(name: str, info: ModelInfo, weights: str) -> Path | None:
    """Find the file of the weights; None means random weights."""
    if weights == "random":
        return None
    if weights == "shipped" and info.weights == "shipped":
        return shipped_file(f"{name}.safetensors")
    if looks_like_path(weights):
        return Path(weights).expanduser()
    if not info.architecture:
        raise WeightsError(
            f"expected weights 'shipped', 'random' or a file for {name}, got {weights!r}; leave weights out for the "
            "shipped ones, or pass 'random' or the path of a file"
        )
    return find_tag(name, info.architecture, weights)


def shipped_file(name: str) -> Path:
    """Return the path of one of the package's files in :data:`WEIGHTS_DIR`.

    Args:
        name: The file's name.

    Returns:
        The path.

    Raises:
        WeightsError: If the installed package lacks the file.
    """
    path = WEIGHTS_DIR / name
    if not path.is_file():
        raise WeightsError(f"expected the package's file {path}, but it is missing; install the package again")
    return path


def _configuration(info: ModelInfo, weights: str) -> tuple[dict[str, Any], Sequence[float], Sequence[float]]:
    """Return the configuration of the model, and the mean and standard deviation of its images."""
    import open_clip

    if not info.architecture:
        content = json.loads(shipped_file("clip-demo.json").read_text(encoding="utf-8"))
        preprocess = content.get("preprocess_cfg", {})
        config = dict(content.get("model_cfg", content))
        return config, preprocess.get("mean", CLIP_MEAN), preprocess.get("std", CLIP_STD)
    config = dict(open_clip.get_model_config(info.architecture))
    is_tag = weights != "random" and not looks_like_path(weights)
    tag = tag_config(info.architecture, weights if is_tag else info.weights)
    config["quick_gelu"] = bool(tag.get("quick_gelu", config.get("quick_gelu", False)))
    return config, tag["mean"], tag["std"]


def visual_tower(config: Mapping[str, Any], quick_gelu: bool, seed: int) -> nn.Module:
    """Build a randomly initialised visual tower; equal seeds give equal weights.

    Args:
        config: A model configuration of open_clip: ``embed_dim`` and ``vision_cfg``.
        quick_gelu: Whether the activation is QuickGELU.
        seed: Seed of the weights; the caller's random state is not changed.

    Returns:
        The tower, float32.
    """
    from open_clip import model

    # open_clip has no public function that builds one tower without the other.
    build: Callable[..., nn.Module] = model._build_vision_tower
    vision = {**config["vision_cfg"], "output_tokens": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config["embed_dim"], vision, quick_gelu).float()


def _load_head(detector: Detector, state: Mapping[str, Tensor]) -> None:
    """Load the head too, if the state dict is that of a trained detector."""
    for prefix in ("head.", "module.head."):
        weight, bias = state.get(f"{prefix}weight"), state.get(f"{prefix}bias")
        if weight is None or bias is None:
            continue
        if weight.shape != detector.head.weight.shape:
            raise WeightsError(
                f"expected a head of shape {tuple(detector.head.weight.shape)} in the file, got {tuple(weight.shape)}; "
                f"pass num_outputs={weight.shape[0]}"
            )
        detector.head.load_state_dict({"weight": weight.float(), "bias": bias.float()})
        detector.provenance["head"] = "file"


def _square(size: int | Sequence[int]) -> int:
    return int(size) if isinstance(size, int) else int(size[0])
