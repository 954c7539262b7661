"""Modes are switched through the model's own methods, and its tensors come back bit for bit."""

import pytest
import torch
from torch import nn

from gsnr_toolkit import estimate_gsnr
from gsnr_toolkit.inputs.modes import in_eval_mode


class Merging(nn.Linear):
    """An adapter that adds its update to the frozen weight in eval() and subtracts it in train()."""

    def __init__(self):
        super().__init__(6, 4)
        self.weight.requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(4, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * (self.b @ self.a).detach()
            self.merged = not mode
        return self

    def forward(self, x):
        y = super().forward(x)
        return y if self.merged else y + x @ self.a.T @ self.b.T


class FreezingNorm(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        self[1].eval()
        for param in self[1].parameters():
            param.requires_grad_(not mode)


@pytest.mark.parametrize(
    "build", [Merging, lambda: nn.Sequential(Merging()), lambda: FreezingNorm(nn.Linear(6, 4), nn.BatchNorm1d(4))]
)
def test_a_mode_switch_that_acts_is_undone_to_the_bit(build):
    torch.manual_seed(0)
    model = build()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [(module.training, getattr(module, "merged", None)) for module in model.modules()]
    wanted = [param.requires_grad for param in model.parameters()]
    with in_eval_mode(model):
        model(torch.randn(3, 6))
    assert [(module.training, getattr(module, "merged", None)) for module in model.modules()] == flags
    assert [param.requires_grad for param in model.parameters()] == wanted
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_measuring_an_adapter_that_merges_leaves_it_trainable():
    torch.manual_seed(0)
    model = nn.Sequential(Merging(), nn.Dropout(0.5))
    weight = model[0].weight.clone()
    batches = [(torch.randn(8, 6), torch.randint(0, 4, (8,))) for _ in range(4)]
    estimate_gsnr(model, batches, progress=False)
    assert torch.equal(model[0].weight, weight)
    assert not model[0].merged
    assert model[0].training
