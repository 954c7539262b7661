"""A detector small enough to train in a second, named in configs as ``tests.support.tiny_detector:tiny_model``."""

import torch
from torch import nn


class TinyDetector(nn.Module):
    """One convolution, dropout, a norm and a head, for images of 16 pixels."""

    image_size, mean, std = 16, (0.5,) * 3, (0.5,) * 3

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, 4)
        self.drop = nn.Dropout(0.2)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 1)

    def forward(self, images):
        return self.head(self.drop(self.norm(self.conv(images).relu().flatten(1))))[:, 0]


def tiny_model(seed=0):
    torch.manual_seed(seed)
    return TinyDetector()
