"""A small model probed on 96 samples, for tests of what is made of a report."""

import pytest
import torch
from torch import nn

from gsnr_toolkit import probe


@pytest.fixture(scope="module")
def loader():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(96, 6, generator=generator)
    return [(inputs, (inputs[:, 0] > 0).long())]


@pytest.fixture(scope="module")
def report(loader):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    return probe(model, loader, steps=10, measurements=3, radii=[0.001, 0.01, 0.2], progress=False)
