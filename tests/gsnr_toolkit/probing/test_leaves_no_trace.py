"""A probe leaves model, gradients, modes and random states as it found them, also when it is cut short."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gsnr_toolkit import estimate_cor, estimate_gsnr, iter_probe, probe
from gsnr_toolkit.inputs.losses import inferred_loss
from tests.support.front_door import two_classes


class _Noisy(nn.Module):
    """Dropout, a buffer that counts calls, and a parameter with a gradient."""

    def __init__(self):
        super().__init__()
        self.layer, self.drop = nn.Linear(6, 1), nn.Dropout(0.1)
        self.register_buffer("calls", torch.zeros(()))
        self.layer.weight.grad = torch.full((1, 6), 3.0)

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.calls.add_(1)
        return self.layer(self.drop(x))


def _state(model, loader):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    rng = (torch.get_rng_state(), np.random.get_state()[1].copy(), loader.generator.get_state())  # noqa: NPY002
    return state, grads, modes, flags, rng


def _assert_same(before, after):
    for name, value in before[0].items():
        assert torch.equal(value, after[0][name]), name
    for name, grad in before[1].items():
        assert grad is None if after[1][name] is None else torch.equal(grad, after[1][name])
    assert before[2:4] == after[2:4]
    assert torch.equal(before[4][0], after[4][0])
    assert np.array_equal(before[4][1], after[4][1])
    assert torch.equal(before[4][2], after[4][2])


def _shuffled():
    data = TensorDataset(*two_classes(dtype=torch.float32))
    return DataLoader(data, batch_size=12, shuffle=True, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("call", [estimate_gsnr, estimate_cor, lambda *a, **k: probe(*a, steps=3, measurements=2, **k)])
def test_everything_is_left_as_found(call):
    model, loader = _Noisy(), _shuffled()
    before = _state(model, loader)
    call(model, loader, progress=False)
    _assert_same(before, _state(model, loader))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [estimate_cor, lambda *a, **k: probe(*a, steps=3, measurements=2, **k)])
@pytest.mark.parametrize("when", [3, 14, 30])
def test_everything_is_left_as_found_when_it_raises(call, error, when):
    model, loader, calls = _Noisy(), _shuffled(), []

    def failing(model, batch):
        calls.append(None)
        if len(calls) == when:
            raise error("stop")
        return inferred_loss(model, batch)

    before = _state(model, loader)
    with pytest.raises(error, match="stop"):
        call(model, loader, loss_fn=failing, engine="loop", progress=False)
    _assert_same(before, _state(model, loader))


def test_an_abandoned_run_gives_the_model_back():
    model, loader = _Noisy(), _shuffled()
    before = _state(model, loader)
    reports = iter_probe(model, loader, steps=6, measurements=3, progress=False)
    first = next(reports)
    second = next(reports)
    reports.close()
    assert first.partial
    assert second.partial
    _assert_same(before, _state(model, loader))


def test_dropout_is_noted_and_its_masks_are_common():
    model, loader = _Noisy(), _shuffled()
    report = estimate_cor(model, loader, progress=False)
    assert any("dropout is active ('drop'" in note for note in report.notes)
    smallest = report.drift.query("group == 'total'").iloc[0]
    assert smallest["drift"] < 0.05 * smallest["grad_norm"]  # different masks would drift at any radius
