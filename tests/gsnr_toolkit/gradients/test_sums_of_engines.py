"""Sums that engines compute without forming samples equal the sums over samples, whatever the batches."""

import pytest
import torch
from torch import nn

from gsnr_toolkit.gradients.select import ENGINES, make_engine
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.task import GradientTask, trainable_params
from gsnr_toolkit.inputs.batches import take_rows
from gsnr_toolkit.inputs.losses import resolve_loss
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from tests.support.cases import CASES
from tests.support.reference import one_row, per_sample_gradients
from tests.support.zoo import ZOO, to_dtype

SOME = [
    "open_clip ViT, own attention, q and k normalised",
    "open_clip text tower",
    "timm Swin",
    "timm ConvNeXt V2",
    "timm NFNet",
    "torchvision ResNet, GroupNorm",
    "transformers GPT-2, tied",
    "transformers T5, tied",
    "transformers Mixtral",
    "LSTM with projection, time first",
    "siamese pairs stacked along the rows",
    "one parameter cut into layers",
    "einsum with a weight per head",
    "block applied three times",
    "EmbeddingBag",
    "Conv3d",
]


def _task(name, dtype=torch.float64):
    model, batch = to_dtype(ZOO[name], dtype)
    return GradientTask(model, trainable_params(model), resolve_loss(ZOO[name].loss_fn)), batch


def _fill(engine, task, batch, moments, chunk_size):
    """Accumulate three uneven batches: two rows, one row, and the rest."""
    losses = [
        engine.accumulate(task, take_rows(batch, a, b), moments, chunk_size=chunk_size)
        for a, b in ((0, 2), (2, 3), (3, 5))
    ]
    return torch.cat(losses)


def _close(actual, expected, rtol, scale):
    gap = (torch.as_tensor(actual, dtype=torch.float64) - expected).abs().max().item()
    assert gap <= rtol * max(expected.abs().max().item(), 1e-4 * scale), f"off by {gap}"


@pytest.mark.parametrize("chunk_size", [2, 5])
@pytest.mark.parametrize("name", SOME)
def test_moments_equal_two_passes_over_the_samples(name, chunk_size):
    task, batch = _task(name)
    samples = per_sample_gradients(task.model, batch, task.loss_fn, one_row)
    moments, groups, engine = Moments(), GroupMoments(), TapsEngine()
    losses = _fill(engine, task, batch, moments, chunk_size)
    _fill(engine, task, batch, groups, chunk_size)
    assert moments.count == groups.count == 5
    assert list(moments.mean) == list(task.params)
    torch.testing.assert_close(losses, task.loss_fn(task.model, batch).detach(), rtol=1e-6, atol=0)
    scale = max(float(grad.abs().max()) for grad in samples.values())
    rtol = 2e-6 if name in ("transformers T5, tied", "transformers Mixtral") else 1e-9  # float32 inside
    for key, grads in samples.items():
        mean = grads.mean(0)
        squares = (grads - mean).square().sum(0)
        _close(moments.mean[key], mean, rtol, scale)
        _close(moments.m2[key], squares, rtol, scale**2)
        _close(groups.mean[key], mean, rtol, scale)
        _close(groups.spread([key]), squares.sum(), rtol, scale**2)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_computes_the_same_sums(engine):
    case = CASES["open_clip ViT"]
    model, (images, labels) = case.model().double(), case.batch()
    task = GradientTask(model, trainable_params(model), resolve_loss(None))
    batch = (images.double(), labels)
    samples = per_sample_gradients(model, batch, task.loss_fn, one_row)
    moments, groups, worker = Moments(), GroupMoments(), make_engine(engine)
    _fill(worker, task, batch, moments, 2)
    _fill(worker, task, batch, groups, 2)
    for key, grads in samples.items():
        squares = (grads - grads.mean(0)).square().sum(0)
        torch.testing.assert_close(moments.m2[key], squares, rtol=1e-9, atol=1e-15)
        assert groups.spread([key]) == pytest.approx(float(squares.sum()), rel=1e-9, abs=1e-20)
    assert [name for names in worker.shares(task).values() for name in names] == list(task.params)
    assert worker.notes() == []


@pytest.mark.parametrize("rows", [1, 4, 40])
def test_float32_keeps_small_variances_under_large_means(rows):
    """Negative control: the mean of squares minus the squared mean loses them on the same data."""
    torch.manual_seed(0)
    model = nn.Linear(32, 16)
    inputs = 1000 + torch.randn(24, rows, 32)

    def loss(model, batch):
        return model(batch).sum((1, 2)) / rows

    task = GradientTask(model, trainable_params(model), loss)
    exact = inputs.double().mean(1)  # the gradient of each output's weights
    expected = (exact - exact.mean(0)).square().sum(0)
    naive = (inputs.mean(1).square().mean(0) - inputs.mean(1).mean(0).square()) * 24
    assert float(((naive - expected) / expected).abs().max()) > 0.05
    for moments in (Moments(), GroupMoments()):
        for start in (0, 8, 16):
            TapsEngine(check=False).accumulate(task, inputs[start : start + 8], moments, chunk_size=8)
        assert moments.spread(["weight"]) == pytest.approx(16 * float(expected.sum()), rel=2e-3)


def test_unreached_and_frozen_parameters():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.frozen = nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 3)
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.used(self.frozen(x))

    model = Model()
    task = GradientTask(model, trainable_params(model), resolve_loss(None))
    moments = Moments()
    TapsEngine().accumulate(task, (torch.randn(4, 3), torch.tensor([0, 1, 0, 1])), moments, chunk_size=4)
    assert list(moments.mean) == ["used.weight", "used.bias", "unused.weight", "unused.bias"]
    assert moments.is_zero("unused.weight")
    assert not moments.is_zero("used.weight")
