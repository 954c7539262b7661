"""Small models of four kinds, from nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WIDTH = 64


def mlp(inputs: int, outputs: int) -> nn.Module:
    """Two hidden layers with ReLU."""
    hidden = [nn.Linear(inputs, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(_WIDTH, outputs))


def deep(inputs: int, outputs: int) -> nn.Module:
    """Eight layers with tanh."""
    layers: list[nn.Module] = [nn.Linear(inputs, _WIDTH), nn.Tanh()]
    for _ in range(6):
        layers += [nn.Linear(_WIDTH, _WIDTH), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(_WIDTH, outputs))


class TinyViT(nn.Module):
    """Two transformer layers over the rows of an image."""

    def __init__(self, rows: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.rows = rows
        self.embed = nn.Linear(rows, width)
        self.place = nn.Parameter(0.02 * torch.randn(rows, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Classify flat square images."""
        tokens = self.embed(images.reshape(len(images), self.rows, self.rows)) + self.place
        return self.head(self.norm(self.blocks(tokens).mean(1)))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(4, channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(4, channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class TinyResNet(nn.Module):
    """Two residual blocks with group norm, on flat square images."""

    def __init__(self, rows: int, outputs: int, channels: int = 16) -> None:
        super().__init__()
        self.rows = rows
        self.body = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.GroupNorm(4, channels), nn.ReLU(),
            _Residual(channels), nn.AvgPool2d(2), _Residual(channels),
        )  # fmt: skip
        self.head = nn.Linear(channels, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Classify flat square images."""
        return self.head(self.body(images.reshape(-1, 1, self.rows, self.rows)).mean((2, 3)))
