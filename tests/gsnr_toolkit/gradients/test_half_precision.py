"""Autocast and half-precision parameters: exact to their own precision, with sums in float32."""

import pytest
import torch
from torch import nn

from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.taps.forward import run_forward
from gsnr_toolkit.gradients.taps.graph import Graph
from gsnr_toolkit.moments.by_parameter import Moments
from tests.support.cases import TiedLanguageModel, TinyViT, next_token_loss
from tests.support.tapped import ROWS, gradients, make_task, six_rows, truth


class Cast(nn.Module):
    """Run a module under autocast."""

    def __init__(self, inner, dtype):
        super().__init__()
        self.inner, self.dtype = inner, dtype

    def forward(self, *args):
        with torch.autocast("cpu", dtype=self.dtype):
            return self.inner(*args)


def _conv():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=3), nn.Flatten(), nn.Linear(16, 1)
    )


def _applied_twice():
    first, shared = nn.Linear(6, 6), nn.Linear(6, 6)
    return nn.Sequential(first, nn.GELU(), shared, nn.LayerNorm(6), nn.GELU(), shared, nn.Linear(6, 3))


def _encoder():
    layer = nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(30, 3))


BINARY = torch.tensor([0, 1, 1, 0, 1, 0])


HALF = {
    "weight cast once, used twice": (_applied_twice, lambda: six_rows(torch.float32), None),
    "patches, attention, layer norm": (TinyViT, lambda: (torch.randn(ROWS, 3, 8, 8), BINARY), None),
    "convolution, group norm": (_conv, lambda: (torch.randn(ROWS, 3, 8, 8), BINARY), None),
    "embedding, tied": (TiedLanguageModel, lambda: {"tokens": torch.randint(0, 11, (ROWS, 7))}, next_token_loss),
    "multi-head attention": (_encoder, lambda: (torch.randn(ROWS, 5, 6), six_rows()[1]), None),
}


UNIT = {torch.bfloat16: 2**-8, torch.float16: 2**-11}


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("case", HALF)
def test_autocast_is_measured_to_its_precision(case, dtype):
    make, batch, loss_fn = HALF[case]
    plain, batch = make(), batch()
    model, engine = Cast(plain, dtype), TapsEngine()
    task = make_task(model, loss_fn)
    grads = {name.removeprefix("inner."): grad for name, grad in gradients(task, batch, engine).items()}
    assert engine.other() == {}
    same_cast = {name.removeprefix("inner."): grad for name, grad in truth(make_task(model, loss_fn), batch).items()}
    exact = truth(make_task(plain, loss_fn), batch)
    moments = Moments()
    TapsEngine().accumulate(task, batch, moments, chunk_size=4)
    for name, expected in exact.items():
        size = float(expected.norm())
        assert grads[name].dtype == moments.mean[f"inner.{name}"].dtype == torch.float32
        assert float((grads[name] - same_cast[name]).norm()) <= 4 * UNIT[dtype] * size, name
        assert float((grads[name] - expected).norm()) <= 16 * UNIT[dtype] * size, name
        torch.testing.assert_close(moments.mean[f"inner.{name}"], grads[name].mean(0), rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("case", HALF)
def test_half_precision_parameters_have_float32_moments(case, dtype):
    make, batch, loss_fn = HALF[case]
    model, batch = make().to(dtype), batch()
    if isinstance(batch, tuple):
        batch = (batch[0].to(dtype), batch[1])
    engine, moments = TapsEngine(), Moments()
    task = make_task(model, loss_fn)
    engine.accumulate(task, batch, moments, chunk_size=4)
    assert engine.other() == {}
    for name, grad in truth(make_task(model, loss_fn), batch).items():
        assert moments.mean[name].dtype == torch.float32
        size = float(grad.float().flatten(1).norm(dim=1).mean())
        assert float((moments.mean[name] - grad.float().mean(0)).norm()) <= 16 * UNIT[dtype] * size, name


def test_the_graph_knows_its_coarsest_type():
    task = make_task(Cast(nn.Linear(6, 3), torch.bfloat16), None)
    assert run_forward(task, six_rows(torch.float32)).graph.coarsest() == torch.bfloat16
    weight = torch.ones(3, requires_grad=True)
    assert Graph(weight * 2, {"w": weight}).coarsest() == torch.float32
