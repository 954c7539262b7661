"""Moments of whole models against two passes over the formed gradients."""

import itertools

import pytest
import torch
from torch import nn

from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.task import GradientTask, trainable_params
from gsnr_toolkit.inputs.batches import map_tensors, take_rows
from gsnr_toolkit.inputs.losses import resolve_loss
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from tests.support.moments_reference import assert_moments, rand, two_passes
from tests.support.reference import one_row, per_sample_gradients
from tests.support.tapped import Model, assert_same, make_task, only_plan, truth
from tests.support.zoo import ZOO, float32_tolerance, to_dtype

pytestmark = [
    pytest.mark.usefixtures("every_kernel", "poisoned_memory"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

MODELS = [
    "transformers GPT-2, tied",
    "LSTM, two directions",
    "one parameter cut into layers",
    "timm Swin",
    "grouped Conv1d",
    "weight norm, PReLU, ConvTranspose",
    "class token by expand",
    "transformers Mixtral",
    "EmbeddingBag",
    "TransformerEncoder, tokens first",
    "parameter on the left of matmul",
    "einsum with a weight per head",
    "block applied three times",
    "timm ConvNeXt",
    "weight made from the sample",
]
IN_FLOAT32 = {"transformers Mixtral": 1e-6}
"""Its RMSNorm computes in float32, whatever the dtype."""


def zoo_task(name):
    model, batch = to_dtype(ZOO[name], torch.float64)
    task = GradientTask(model, trainable_params(model), resolve_loss(ZOO[name].loss_fn))
    order = torch.tensor([0, 3, 1, 4, 2, 2, 1, 0, 4, 3, 0])
    return task, map_tensors(batch, lambda tensor: tensor[order])


def uneven(batch, sizes):
    """Cut a batch into consecutive batches of these sizes."""
    edges = list(itertools.accumulate(sizes, initial=0))
    return [take_rows(batch, a, b) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("name", MODELS)
def test_models_equal_two_passes(name):
    task, batch = zoo_task(name)
    grads = per_sample_gradients(task.model, batch, task.loss_fn, one_row)
    engine = TapsEngine()
    for new in (Moments, GroupMoments):
        for chunk_size in (2, 3, 100):
            moments = new()
            losses = [
                engine.accumulate(task, rows, moments, chunk_size=chunk_size) for rows in uneven(batch, [4, 1, 6])
            ]
            assert_moments(moments, grads, IN_FLOAT32.get(name, 1e-10))
            assert torch.cat(losses).shape == (11,)


FALLBACK = {"transformers Mixtral", "EmbeddingBag"}


@pytest.mark.parametrize("name", sorted(FALLBACK))
def test_some_of_these_models_need_another_engine_for_a_part(name):
    task, batch = zoo_task(name)
    engine = TapsEngine()
    engine.prepare(task, take_rows(batch, 0, 5))
    assert 0 < len(engine.other()) < len(task.params)


@pytest.mark.parametrize("new", [Moments, GroupMoments])
def test_float32_holds_where_the_difference_of_squares_fails(new):
    """The common shift of the gradients is a thousand times their spread."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(n, 5, 6, generator=generator) * 1e-3 + 1, 1e-3 * torch.randn(n, generator=generator) + 1)
        for n in (5, 1, 9, 8)
    ]

    def linear_loss(model, batch):
        return model(batch[0]).flatten(1).sum(1) * batch[1]

    model = nn.Linear(6, 7)
    task = make_task(model, linear_loss)
    moments, engine = new(), TapsEngine()
    for rows in batches:
        engine.accumulate(task, rows, moments, chunk_size=4)
    joined = tuple(torch.cat(column) for column in zip(*batches, strict=True))
    single = per_sample_gradients(model, joined, linear_loss, one_row)
    exact = per_sample_gradients(model.double(), tuple(t.double() for t in joined), linear_loss, one_row)
    for name, grad in exact.items():
        trace = float(two_passes({name: grad})[1][name].sum())
        naive = float((single[name].square().mean(0) - single[name].mean(0).square()).sum()) * 23
        assert moments.spread([name]) == pytest.approx(trace, rel=1e-4), name
        assert abs(naive / trace - 1) > 0.02
        torch.testing.assert_close(moments.mean[name].double(), grad.mean(0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["transformers GPT-2, tied", "class token by repeat", "grouped Conv1d"])
def test_float32_agrees_to_its_precision(name):
    model, batch = to_dtype(ZOO[name], torch.float32)
    task = GradientTask(model, trainable_params(model), resolve_loss(ZOO[name].loss_fn))
    found = {new: new() for new in (Moments, GroupMoments)}
    for moments in found.values():
        TapsEngine().accumulate(task, batch, moments, chunk_size=3)
    single = per_sample_gradients(model, batch, task.loss_fn, one_row)
    double, batch = to_dtype(ZOO[name], torch.float64)
    grads = per_sample_gradients(double, batch, task.loss_fn, one_row)
    for moments in found.values():
        assert_moments(moments, grads, float32_tolerance(single, grads))


def test_a_tied_packed_parameter_goes_through_whole():
    """Overlapping views are added in the parameter's own shape."""

    def use(p, x):
        return torch.tanh(x @ p["w"][:4]) @ p["w"][2:].t() + p["w"][0]

    task, batch = make_task(Model(use, w=rand(6, 4))), (rand(7, 4),)
    engine = TapsEngine()
    for new in (Moments, GroupMoments):
        moments = new()
        engine.accumulate(task, batch, moments, chunk_size=4)
        assert_moments(moments, truth(task, batch), 1e-10)
    assert only_plan(engine).placed == frozenset()
    assert only_plan(engine).other == {}


def test_batches_of_one_sample_take_a_plain_backward():
    task, batch = make_task(nn.Linear(4, 3).double()), (rand(3, 4),)
    engine, moments = TapsEngine(), Moments()
    for rows in uneven(batch, [1, 1, 1]):
        engine.accumulate(task, rows, moments, chunk_size=8)
    assert engine._plans == {}
    assert_same(moments.mean, two_passes(truth(task, batch))[0])
    assert_same(moments.m2, two_passes(truth(task, batch))[1])
