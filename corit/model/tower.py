"""The tokens of an open_clip visual transformer after every block, exactly as its own forward pass computes them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gsnr_toolkit.errors import ProbeError

__all__ = ["TowerShape", "blocks_of", "iter_layers", "tower_of", "tower_shape"]

_PARTS = ("class_embedding", "grid_size", "patch_size", "ln_post", "transformer", "_embeds")


@dataclass(frozen=True)
class TowerShape:
    """Blocks L, width d, rows and columns of the patch grid, and height and width of an image in pixels."""

    num_layers: int
    width: int
    grid: tuple[int, int]
    image_size: tuple[int, int]

    @property
    def num_patches(self) -> int:
        """Patch tokens of an image, T."""
        return self.grid[0] * self.grid[1]


def tower_of(model: nn.Module) -> nn.Module:
    """Return the visual transformer of a model: the model itself, or its ``encoder``.

    Raises:
        ProbeError: If it is not one of open_clip's.

    >>> tower_of(nn.Linear(2, 2))
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected a visual transformer of open_clip ..., got Linear ...
    """
    encoder: Any = getattr(model, "encoder", model)
    lacking = [part for part in _PARTS if not hasattr(encoder, part)]
    if lacking or not hasattr(encoder.transformer, "resblocks"):
        raise ProbeError(
            "expected a visual transformer of open_clip 2.30 or later with a class token, got "
            f"{type(encoder).__name__} without {', '.join(lacking) or 'transformer.resblocks'}; use an encoder such as "
            "'clip-demo', 'clip-vit-b16' or 'clip-vit-l14'"
        )
    if not getattr(encoder.transformer, "batch_first", True):
        raise ProbeError("expected a transformer that runs with the batch first, got batch_first=False; rebuild it")
    # region tokens run through the blocks under a mask; see injection.py
    blind = [type(b).__name__ for b in blocks_of(encoder) if "attn_mask" not in inspect.signature(b.forward).parameters]
    if blind:
        raise ProbeError(f"expected blocks that take an attn_mask, got {blind[0]}; use open_clip's own blocks")
    return encoder


def blocks_of(encoder: nn.Module) -> list[Any]:
    """Return the blocks of a visual transformer, first to last."""
    tower: Any = encoder
    return list(tower.transformer.resblocks)


def tower_shape(encoder: nn.Module) -> TowerShape:
    """Return the sizes of a visual transformer."""
    tower: Any = encoder
    height, width = tower.image_size
    return TowerShape(len(blocks_of(tower)), tower.class_embedding.shape[-1], tuple(tower.grid_size), (height, width))


def iter_layers(encoder: nn.Module, images: Tensor, last: int | None = None) -> Iterator[Tensor]:
    """Run a visual transformer block by block, with the same calls as its own forward pass.

    Yield the tokens ``(N, 1 + T, d)``, class token first: the input of the first block (layer 0), then the output of
    each block up to layer ``last``, or of every block when None.

    Raises:
        ProbeError: If the images have another size, or tokens were dropped.
    """
    tower: Any = encoder
    shape = tower_shape(encoder)
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, *shape.image_size):
        height, width = shape.image_size
        raise ProbeError(
            f"expected images of shape (N, 3, {height}, {width}), got {tuple(images.shape)}; resize and normalise them "
            "as the encoder was trained with"
        )
    tokens = tower._embeds(images)
    if tokens.shape[1] != 1 + shape.num_patches:
        raise ProbeError(
            f"expected {1 + shape.num_patches} tokens, got {tokens.shape[1]}: patch dropout is active; call "
            "encoder.eval()"
        )
    yield tokens
    for block in blocks_of(encoder)[:last]:
        tokens = block(tokens, attn_mask=None)
        yield tokens
