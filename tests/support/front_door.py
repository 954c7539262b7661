"""Small data, models and one-line calls for tests that come in through the front door."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gsnr_toolkit import estimate_gsnr

N = 192
"""Enough for shards of several samples: single ones are always done by a backward of their own."""


def two_classes(n=96, features=6, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, features, generator=generator, dtype=dtype)
    labels = (inputs[:, 0] + 0.3 * torch.randn(n, generator=generator, dtype=dtype) > 0).long()
    return inputs, labels


def make_loader(n=96, batch_size=12, **extra):
    return DataLoader(TensorDataset(*two_classes(n, **extra)), batch_size=batch_size)


def mlp(dtype=torch.float64):
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)


def seeded_mlp():
    torch.manual_seed(0)
    return mlp()


def three_classes(dtype=torch.float32):
    inputs = torch.randn(N, 6, dtype=dtype)
    return inputs, (inputs[:, 0] + inputs[:, 1] > 0).long() + (inputs[:, 2] > 0.5).long()


def three_class_mlp(*between):
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), *between, nn.Linear(8, 3))


def gsnr(model, batch=None, **options):
    return estimate_gsnr(model, [batch or three_classes()], progress=False, **options)


def assert_like_loop(model, batch=None, rel=1e-5, **options):
    batch = batch or three_classes()
    expected = gsnr(model, batch, engine="loop", **options)
    found = gsnr(model, batch, **options)
    assert found.layers["gsnr"].tolist() == pytest.approx(expected.layers["gsnr"].tolist(), rel=rel, nan_ok=True)
    return found
