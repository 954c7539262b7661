"""Models and batches for tests of every engine and estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Case:
    """A model, a batch of five samples, and the loss that goes with it (None: inferred)."""

    model: Callable[[], nn.Module]
    batch: Callable[[], Any]
    loss_fn: Callable[[nn.Module, Any], Tensor] | None = None


class AttentionBlock(nn.Module):
    """Pre-norm block that calls F.scaled_dot_product_attention directly."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class TinyViT(nn.Module):
    """Class token, positional embedding, two blocks named as in timm, a head."""

    def __init__(self, width: int = 8, outputs: int = 1) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, width))
        self.blocks = nn.ModuleList([AttentionBlock(width), AttentionBlock(width)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch_embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class TiedLanguageModel(nn.Module):
    """Embedding used twice: at the input and as the output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.embedding(tokens))))


def next_token_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the next token, per sequence."""
    logits = model(batch["tokens"][:, :-1])
    return F.cross_entropy(logits.transpose(1, 2), batch["tokens"][:, 1:], reduction="none").mean(1)


def open_clip_tower() -> nn.Module:
    """A small open_clip visual tower with a binary head."""
    from open_clip.transformer import VisionTransformer

    tower = VisionTransformer(image_size=8, patch_size=4, width=8, layers=2, heads=2, mlp_ratio=2.0, output_dim=6)
    return nn.Sequential(tower, nn.Linear(6, 1))


def _images(size: int = 8) -> Tensor:
    return torch.randn(5, 3, size, size)


CASES: dict[str, Case] = {
    "mlp, binary (N, 1)": Case(
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)),
        lambda: (torch.randn(5, 4), torch.tensor([0, 1, 1, 0, 1])),
    ),
    "conv net with GroupNorm, 3 classes": Case(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        ),
        lambda: (_images(), torch.tensor([0, 1, 2, 0, 1])),
    ),
    "conv net with BatchNorm in eval mode": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1)).eval(),
        lambda: (_images(), torch.tensor([0, 1, 1, 0, 1])),
    ),
    "open_clip ViT": Case(open_clip_tower, lambda: (_images(), torch.tensor([0, 1, 1, 0, 1]))),
    "ViT on scaled_dot_product_attention": Case(TinyViT, lambda: (_images(), torch.tensor([0, 1, 1, 0, 1]))),
    "tied embedding, dict batch": Case(
        TiedLanguageModel, lambda: {"tokens": torch.randint(0, 11, (5, 7))}, next_token_loss
    ),
    "embedding bag of words": Case(
        lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2)),
        lambda: (torch.randint(0, 9, (5, 3)), torch.tensor([0, 1, 1, 0, 1])),
    ),
}
