"""Every engine against one backward per sample, on public architectures."""

import pytest
import torch
from reference import one_row, per_sample_gradients
from zoo import ZOO, assert_gradients_close, cast, to_dtype

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.functional import GradientTask, trainable_params
from gsnr_toolkit.gradients.select import ENGINES
from gsnr_toolkit.losses import resolve_loss

EXACT_ENGINES = ["loop"]
"""Engines that must do every entry."""

NO_RULE = "a fused recurrence, which has no batching rule"
BRANCHES = "looks at the values of the attention mask"
VMAP_CANNOT = {
    "LSTM, two directions": NO_RULE,
    "LSTM with projection, time first": NO_RULE,
    "GRU, time first": NO_RULE,
    "transformers BERT": BRANCHES,
    "transformers Mixtral": "sends each token to the experts that its values choose",
}
"""Entries that ``torch.func`` cannot vectorise, and why."""


def _task(name, dtype):
    model, batch = to_dtype(ZOO[name], dtype)
    return GradientTask(model, trainable_params(model), resolve_loss(ZOO[name].loss_fn)), batch


def _engine(name, task, batch, chunk_size):
    chunks = list(ENGINES[name](task, batch, chunk_size=chunk_size))
    grads = {key: torch.cat([chunk.grads[key] for chunk in chunks]) for key in task.params}
    return grads, torch.cat([chunk.losses for chunk in chunks])


def _truth(task, batch):
    return per_sample_gradients(task.model, batch, task.loss_fn, one_row)


@pytest.mark.parametrize("name", ZOO)
def test_exact_engines_equal_backward_per_sample(name):
    task, batch = _task(name, torch.float64)
    expected = _truth(task, batch)
    losses = torch.cat([task.loss_fn(task.model, one_row(batch, row)).detach() for row in range(5)])
    for engine in EXACT_ENGINES:
        grads, found = _engine(engine, task, batch, chunk_size=3)
        assert_gradients_close(grads, expected, rtol=1e-10, context=engine)
        torch.testing.assert_close(found, losses, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ZOO)
def test_float32_agrees_with_float64_to_its_precision(name):
    task, batch = _task(name, torch.float32)
    found = {engine: _engine(engine, task, batch, chunk_size=3)[0] for engine in EXACT_ENGINES}
    expected = per_sample_gradients(task.model.double(), cast(batch, torch.float64), task.loss_fn, one_row)
    for engine, grads in found.items():
        assert_gradients_close(grads, expected, rtol=1e-5, context=engine)


@pytest.mark.parametrize("name", [name for name in ZOO if name not in VMAP_CANNOT])
def test_vmap_equals_backward_per_sample(name):
    task, batch = _task(name, torch.float64)
    grads, _ = _engine("vmap", task, batch, chunk_size=3)
    assert_gradients_close(grads, _truth(task, batch), rtol=1e-10, context="vmap")


@pytest.mark.parametrize("name", VMAP_CANNOT)
def test_vmap_says_that_it_cannot(name):
    task, batch = _task(name, torch.float64)
    with pytest.raises((ProbeError, RuntimeError)):
        _engine("vmap", task, batch, chunk_size=3)
