"""Cutting and joining batches of any nesting against a literal twin: single samples, collated."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gsnr_toolkit import estimate_gsnr
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.task import GradientTask, trainable_params
from gsnr_toolkit.gradients.vmap import vmap_gradients
from gsnr_toolkit.inputs.batches import batch_length, can_join, gather_rows, join_batches, move_batch, take_rows
from gsnr_toolkit.inputs.loaders import rebatch

Pair = namedtuple("Pair", "one two")


class Encoding(UserDict):
    def __getattr__(self, name):
        return self.data[name]


class Attributes(dict):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.__dict__ = self


@dataclass(frozen=True)
class Record:
    one: Any
    two: Any


CONTAINERS = {
    "dict": lambda one, two: {"one": one, "two": two},
    "ordered": lambda one, two: OrderedDict(one=one, two=two),
    "encoding": lambda one, two: Encoding(one=one, two=two),
    "attributes": lambda one, two: Attributes(one=one, two=two),
    "record": Record,
    "pair": Pair,
    "tuple": lambda one, two: (one, two),
}
FIELDS = ("tensor", "matrix", "texts", "numbers", "lists", "nones", "array", "tuple_of_texts")
LEAVES = (*FIELDS, "split", "none", "classes")
SCHEMES = st.recursive(
    st.sampled_from(LEAVES), lambda part: st.tuples(st.sampled_from(sorted(CONTAINERS)), part, part), max_leaves=6
).filter(lambda scheme: is_clear(scheme))
SHARED = {"split": "train", "none": None, "classes": ["cat", "dog", "cow", "hen", "pig", "ant", "bee", "fly", "owl"]}
CLASSES = len(SHARED["classes"])


def entry(leaf, i):
    """What sample i has in a leaf."""
    return {
        "tensor": torch.tensor(float(i)),
        "matrix": torch.tensor([i, 2.0 * i]),
        "texts": f"name {i}",
        "numbers": 10 * i,
        "lists": [i] * (i % 3),
        "nones": None,
        "array": np.array([i, i + 0.5]),
        "tuple_of_texts": f"word {i}",
    }.get(leaf)


def collate(scheme, samples):
    """The literal twin: samples in a batch."""
    if not isinstance(scheme, str):
        name, one, two = scheme
        return CONTAINERS[name](collate(one, samples), collate(two, samples))
    if scheme in SHARED:
        return SHARED[scheme]
    entries = [entry(scheme, i) for i in samples]
    if scheme in ("tensor", "matrix"):
        return torch.stack(entries)
    if scheme == "array":
        return np.stack(entries)
    return tuple(entries) if scheme == "tuple_of_texts" else entries


def alike(one, other):
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    if is_dataclass(one):
        return all(alike(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, (dict, UserDict)):
        assert type(one) is type(other)
        by_attribute = not isinstance(one, (Encoding, Attributes)) or all(
            getattr(other, key) is other[key] for key in one
        )
        return by_attribute and list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return isinstance(other, type(one)) and len(one) == len(other) and all(map(alike, one, other))
    return one == other


def batch_of(scheme, samples):
    """A batch that certainly holds a tensor."""
    return collate(("tuple", "tensor", scheme), samples)


def is_clear(scheme):
    """Whether no tuple reads as a field where it has the batch's length: of shared values, or of unequal lists."""
    if isinstance(scheme, str):
        return True
    name, one, two = scheme
    nesting = name != "tuple" or (bool(leaves_of(scheme) & set(FIELDS)) and "classes" not in (one, two))
    # two lists of numbers are read as two samples' lists: a collate function would have made tensors of the others
    nesting &= name != "tuple" or leaves_of(scheme) & set(FIELDS) != {"numbers"}
    return nesting and is_clear(one) and is_clear(two)


def leaves_of(scheme):
    return {scheme} if isinstance(scheme, str) else leaves_of(scheme[1]) | leaves_of(scheme[2])


def told(function, *args):
    """The result, unless it cannot be told which of two sequences of one length are the samples."""
    try:
        return function(*args)
    except ProbeError as error:
        assume("either may be the" not in str(error))
        raise


few = settings(max_examples=60, deadline=None)


@few
@given(SCHEMES, st.integers(2, CLASSES - 1), st.data())
def test_rows_of_a_batch_are_the_samples(scheme, count, data):
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))
    batch = batch_of(scheme, range(count))
    cut = told(take_rows, batch, start, stop)
    assert alike(batch_of(scheme, range(start, stop)), cut)
    inner = data.draw(st.integers(0, stop - start - 1))  # what was cut is cut again
    assert alike(batch_of(scheme, [start + inner]), take_rows(cut, inner, inner + 1))
    assert alike(batch, batch_of(scheme, range(count)))
    assert alike(batch, move_batch(batch, torch.device("cpu")))


@few
@given(SCHEMES, st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_gathered_rows_are_the_samples(scheme, index):
    assert alike(batch_of(scheme, index), told(gather_rows, batch_of(scheme, range(5)), index))


@few
@given(SCHEMES, st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(1, 7))
def test_joined_batches_are_the_samples(scheme, sizes, size):
    ends = np.cumsum(sizes).tolist()
    batches = [batch_of(scheme, range(end - length, end)) for end, length in zip(ends, sizes, strict=True)]
    assert all(told(can_join, batches[0], other) for other in batches)
    assert alike(batch_of(scheme, range(ends[-1])), told(join_batches, batches))
    starts = range(0, ends[-1], size)
    expected = [batch_of(scheme, range(start, min(start + size, ends[-1]))) for start in starts]
    found = told(lambda: list(rebatch(batches, size)))
    assert len(found) == len(expected)
    assert all(alike(one, other) for one, other in zip(expected, found, strict=True))
    assert [batch_length(batch) for batch in found] == [batch_length(batch) for batch in expected]


WAYS = {"a": 1.0, "b": -2.0, "c": 0.5}


def samples_of(seed, count):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, dtype=torch.float64, generator=generator)
    names = [sorted(WAYS)[i] for i in torch.randint(0, 3, (count,), generator=generator)]
    weights = torch.rand(count, generator=generator).tolist()
    scales = torch.rand(count, generator=generator).numpy()
    return [(x[i], names[i], weights[i], scales[i]) for i in range(count)]


def gathered(samples):
    """The batch of some samples: a tensor, texts, numbers and an array, in a mapping of another's type."""
    x, names, weights, scales = zip(*samples, strict=True)
    return Encoding(x=torch.stack(x), meta={"names": list(names), "weights": weights}, scales=np.stack(scales))


def by_field(model, batch):
    ways = torch.tensor([WAYS[name] for name in batch.meta["names"]], dtype=torch.float64)
    weights = torch.tensor(batch.meta["weights"], dtype=torch.float64) * torch.from_numpy(batch.scales).double()
    return (model(batch.x)[:, 0] - ways).square() * (0.1 + weights)


def literal_gradients(model, samples):
    found = []
    for sample in samples:
        model.zero_grad()
        by_field(model, gathered([sample])).sum().backward()
        found.append(torch.cat([param.grad.flatten() for param in model.parameters()]))
    return torch.stack(found)


def small_model():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.sampled_from(["taps", "loop"]), st.integers(1, 5))
def test_gradients_of_samples_whose_loss_reads_fields(seed, count, engine, chunk):
    samples, model = samples_of(seed, count), small_model()
    task = GradientTask(model, trainable_params(model), by_field)
    run = TapsEngine() if engine == "taps" else loop_gradients
    chunks = list(run(task, gathered(samples), chunk_size=chunk))
    found = torch.cat([torch.cat([grad.flatten(1) for grad in chunk.grads.values()], 1) for chunk in chunks])
    torch.testing.assert_close(found, literal_gradients(model, samples), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("engine", ["auto", "taps", "loop"])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_gsnr_of_samples_whose_loss_reads_fields(engine, size):
    samples, model = samples_of(1, 24), small_model()
    batches = [gathered(samples[i : i + size]) for i in range(0, 24, size)]
    report = estimate_gsnr(model, batches, loss_fn=by_field, engine=engine, progress=False)
    grads = literal_gradients(model, samples)
    variance = (grads - grads.mean(0)).square().sum() / (len(grads) - 1)
    assert report.total["gsnr_plugin"] == pytest.approx(float(grads.mean(0).square().sum() / variance), rel=1e-9)


def test_vmap_hands_a_field_that_it_cannot_cut_to_the_loop():
    samples, model = samples_of(2, 8), small_model()
    task = GradientTask(model, trainable_params(model), by_field)
    with pytest.raises(ValueError, match=r"reads a field of the batch.*pass engine='loop'"):
        list(vmap_gradients(task, gathered(samples), chunk_size=4))
    unread = GradientTask(model, trainable_params(model), lambda model, batch: model(batch.x)[:, 0].square())
    chunks = list(vmap_gradients(unread, gathered(samples), chunk_size=4))
    assert [len(chunk.losses) for chunk in chunks] == [4, 4]
