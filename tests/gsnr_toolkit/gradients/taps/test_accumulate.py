"""Sums over per-sample gradients against two passes over the formed ones: whole models, then each special path."""

import itertools

import pytest
import torch
from torch import nn

from gsnr_toolkit.gradients.kernels import sqnorms, tiles
from gsnr_toolkit.gradients.kernels.tiles import Workspace
from gsnr_toolkit.gradients.taps import accumulate
from gsnr_toolkit.gradients.taps.accumulate import add_parts, row_blocks, sample_blocks
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.taps.terms import Computed, Gathered, Products, Stored, Windows, add_terms
from gsnr_toolkit.gradients.taps.views import View, follow
from gsnr_toolkit.gradients.task import GradientTask, trainable_params
from gsnr_toolkit.inputs.batches import map_tensors, take_rows
from gsnr_toolkit.inputs.losses import resolve_loss
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from tests.support.reference import one_row, per_sample_gradients
from tests.support.tapped import Model, assert_same, make_task, only_plan, truth
from tests.support.zoo import ZOO, to_dtype

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.fixture(autouse=True)
def poisoned_memory(every_kernel, monkeypatch):
    """Every way to sum; and memory that nobody wrote to is not a number."""
    empty = torch.empty

    def poisoned(*args, **settings):
        made = empty(*args, **settings)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", poisoned)


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
"""Its RMSNorm works in float32 whatever the dtype."""


def two_passes(grads):
    """Mean, and sum of centred squares, by name."""
    mean = {name: grad.mean(0) for name, grad in grads.items()}
    return mean, {name: (grad - mean[name]).square().sum(0) for name, grad in grads.items()}


def assert_moments(moments, grads, rtol):
    mean, squares = two_passes(grads)
    count = len(next(iter(grads.values())))
    assert moments.count == count
    assert_scaled(moments.mean, mean, grads, rtol)
    if isinstance(moments, Moments):
        assert_scaled(moments.m2, squares, grads, rtol, power=2)
        return
    for name, expected in squares.items():
        scale = float(grads[name].square().sum())
        assert moments.squares[name] == pytest.approx(float(expected.sum()), rel=rtol, abs=rtol * scale), name


def assert_scaled(actual, expected, grads, rtol, power=1):
    """Entries are right to a share of their largest gradient: rounding of a sum is of that size."""
    assert actual.keys() == expected.keys()
    largest = max(float(grad.abs().max()) for grad in grads.values())
    for name, value in expected.items():
        scale = max(float(grads[name].abs().max()), 1e-6 * largest) ** power
        torch.testing.assert_close(actual[name].to(value.dtype), value, rtol=rtol, atol=rtol * scale, msg=_about(name))


def _about(name):
    return lambda message: f"{name}: {message}"


def zoo_task(name):
    model, batch = to_dtype(ZOO[name], torch.float64)
    task = GradientTask(model, trainable_params(model), resolve_loss(ZOO[name].loss_fn))
    order = torch.tensor([0, 3, 1, 4, 2, 2, 1, 0, 4, 3, 0])
    return task, map_tensors(batch, lambda tensor: tensor[order])


def uneven(batch, sizes):
    """Batches of these sizes, one after the other."""
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
    """A common shift of the gradients a thousand times their spread."""
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
    double, batch = to_dtype(ZOO[name], torch.float64)
    grads = per_sample_gradients(double, batch, task.loss_fn, one_row)
    for moments in found.values():
        assert_moments(moments, grads, 1e-5)


# one path after the other


def rand(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


def feed(new, param, terms, views=()):
    """Give terms, one batch each, to empty moments."""
    moments, workspace = new(), Workspace()
    for term in terms:
        parts = term if isinstance(term, list) else [(term, views)]
        add_parts(moments, "w", param, moments.count, parts, workspace)
        moments.count += parts[0][0].count
    return moments


def formed(terms, views, shape):
    """What the terms stand for, in the parameter's shape."""
    grads = []
    for term in terms:
        for part in term.samples(0, term.count):
            whole = torch.zeros(shape, dtype=part.dtype)
            follow(views, whole).copy_(part)
            grads.append(whole)
    return {"w": torch.stack(grads)}


def check_both(terms, shape, views=(), rtol=1e-10):
    param = torch.zeros(shape, dtype=torch.float64)
    for new in (Moments, GroupMoments):
        assert_moments(feed(new, param, terms, views), formed(terms, views, shape), rtol)


@pytest.mark.parametrize("shape", [(20, 3), (20, 2, 3), (20,)])
@pytest.mark.parametrize("block_bytes", [2**26, 96, 1])
def test_tables_with_rows_that_come_and_go(shape, block_bytes, monkeypatch):
    monkeypatch.setattr(accumulate, "_BLOCK_BYTES", block_bytes)
    width = torch.Size(shape[1:]).numel()
    looked_up = [
        torch.randint(0, 20, (4, 6)),
        torch.randint(5, 9, (3, 6)),
        torch.full((5, 6), 7),
        torch.arange(6)[None],
    ]
    terms = [Gathered(rows, 3 + rand(*rows.shape, width), shape) for rows in looked_up]
    check_both(terms, shape)


def test_blocks_of_rows_put_together_are_the_rows_that_were_looked_up(monkeypatch):
    monkeypatch.setattr(accumulate, "_BLOCK_BYTES", 2 * 4 * 3 * 4)
    term = Gathered(torch.randint(0, 20, (4, 6)), rand(4, 6, 3), (20, 3))
    used = term.rows.unique()
    blocks = list(row_blocks(term))
    assert len(blocks) == -(-len(used) // 2)
    torch.testing.assert_close(torch.cat([rows for rows, _ in blocks]), used)
    pairs = zip(term.rows, term.grads, strict=True)
    tables = torch.stack([torch.zeros(20, 3).double().index_add(0, rows, grads) for rows, grads in pairs])
    torch.testing.assert_close(torch.cat([samples for _, samples in blocks], 1), tables[:, used])


def test_table_in_a_view_that_is_not_contiguous():
    terms = [Gathered(torch.randint(0, 5, (n, 3)), rand(n, 3, 4), (5, 4)) for n in (3, 2)]
    check_both(terms, (4, 5), (View("TBackward"),))


def test_samples_are_formed_a_block_at_a_time(monkeypatch):
    monkeypatch.setattr(accumulate, "_BLOCK_BYTES", 4 * 6 * 2)
    values = [5 + rand(n, 2, 3) for n in (5, 1, 4)]
    asked = []

    def term(held):
        def form(start, stop):
            asked.append(stop - start)
            return held[start:stop]

        return Computed(form, len(held), (2, 3))

    check_both([term(held) for held in values], (2, 3))
    assert set(asked) >= {1, 2}
    assert [len(block) for block in sample_blocks(Stored(values[0]))] == [2, 2, 1]


@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"), [(1, 9, 4), (1, 4, 9), (2, 9, 4), (2, 4, 9), (40, 5, 3), (40, 3, 5)]
)
@pytest.mark.parametrize("counts", [(4, 3), (1, 5), (1,), (1, 1, 1)])
def test_matrix_products(rows, outputs, inputs, counts):
    """Ghost and formed norms, both orientations, one row per sample, one sample per batch."""
    terms = [Products(rand(n, rows, outputs), 2 + rand(n, rows, inputs), (outputs, inputs)) for n in counts]
    assert sqnorms.ghost_is_cheaper(rows, outputs, inputs) == (rows < 40)
    check_both(terms, (outputs, inputs))


@pytest.mark.parametrize("tile", [1, 2, 5])
def test_matrix_products_in_several_tiles(tile, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ENTRIES", tile)
    for outputs, inputs in ((5, 3), (3, 5)):
        check_both(
            [Products(rand(n, 40, outputs), rand(n, 40, inputs), (outputs, inputs)) for n in (4, 3)], (outputs, inputs)
        )


def test_ghost_norms_of_some_samples_at_a_time(monkeypatch):
    left, right = rand(7, 3, 5), rand(7, 3, 4)
    expected = float(torch.einsum("nto,nti->noi", left, right).square().sum())
    for size in (2**27, 8 * 9 * 2, 1):
        monkeypatch.setattr(sqnorms, "_GHOST_BYTES", size)
        assert sqnorms.ghost_sqnorms(left, right) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("places", [(4, 3), (2, 4, 3)])
@pytest.mark.parametrize("name", ["kernel", "kernel, inputs first", "some of a stack", "two uses"])
def test_windows_of_a_convolution(places, name):
    """Read in their place, and written out where a view or a second use of the kernel asks for it."""
    shape = (6, 3, 2, 2)

    def windows(count):
        image = 1 + rand(count, *places[:-2], 3, 5, 4)
        outer = image.stride()[: len(places) - 1]
        return image.as_strided((count, *places, 3, 2, 2), (*outer, 4, 1, 20, 4, 1))

    terms = [Windows(rand(n, torch.Size(places).numel(), 6), windows(n), shape) for n in (4, 1, 3)]
    for term in terms:
        assert term.samples(1, term.count).shape == (term.count - 1, *shape)
        assert term.products().right.shape == (term.count, torch.Size(places).numel(), 12)
    if name == "two uses":
        check_both([add_terms([term, Stored(rand(term.count, *shape))]) for term in terms], shape)
        joined = add_terms([terms[0], terms[0]])
        torch.testing.assert_close(joined.samples(0, 4), 2 * terms[0].samples(0, 4))
    elif name == "kernel":
        check_both(terms, shape)
    elif name == "some of a stack":
        check_both(terms, (2, *shape), (View("SelectBackward", (0, 1)),))
    else:
        check_both(terms, (3, 6, 2, 2), (View("TransposeBackward", (0, 1)),))


TRANSPOSED = (View("TBackward"),)
VIEWS = {
    "columns": ((View("SliceBackward", (1, 1, 4, 1)),), (6, 5), (6, 3)),
    "transposed": (TRANSPOSED, (3, 6), (6, 3)),
    "every other row": ((View("SliceBackward", (0, 0, 12, 2)),), (12, 3), (6, 3)),
    "rows of the transposed": ((*TRANSPOSED, View("SliceBackward", (0, 0, 6, 1))), (3, 8), (6, 3)),
    "one of a stack": ((View("SelectBackward", (0, 1)), View("view", ((6, 3),))), (2, 18), (6, 3)),
    "kernel of four dimensions": ((), (6, 1, 3, 1), (6, 1, 3, 1)),
    "kernel, inputs first": ((View("TransposeBackward", (0, 1)),), (3, 6, 2, 1), (6, 3, 2, 1)),
    "kernel, some of its inputs": ((View("SliceBackward", (1, 1, 4, 1)),), (6, 5, 2, 1), (6, 3, 2, 1)),
}


@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("name", VIEWS)
def test_matrix_products_in_views_of_a_parameter(name, rows):
    views, shape, inner = VIEWS[name]
    columns = torch.Size(inner[1:]).numel()
    check_both([Products(rand(n, rows, 6), 1 + rand(n, rows, columns), inner) for n in (4, 1, 3)], shape, views)


def test_views_that_do_not_cover_the_parameter():
    """What lies between them has gradient zero, also after it had another one."""
    shape, first, last = (9, 4), (View("SliceBackward", (0, 0, 3, 1)),), (View("SliceBackward", (0, 5, 9, 1)),)
    whole = Stored(3 + rand(4, *shape))
    halves = [
        (Products(rand(5, 2, 3), 1 + rand(5, 2, 4), (3, 4)), first),
        (Gathered(torch.randint(0, 4, (5, 2)), rand(5, 2, 4), (4, 4)), last),
    ]
    middle = [(Stored(rand(2, 3, 4)), (View("SliceBackward", (0, 3, 6, 1)),))]
    expected = torch.zeros(7, *shape, dtype=torch.float64)
    expected[:5, :3], expected[:5, 5:] = (term.samples(0, 5) for term, _ in halves)
    expected[5:, 3:6] = middle[0][0].values
    grads = {"w": torch.cat([whole.values, expected])}
    for new in (Moments, GroupMoments):
        moments = feed(new, torch.zeros(shape, dtype=torch.float64), [whole, halves, middle])
        assert_moments(moments, grads, 1e-10)
        first_seen = feed(new, torch.zeros(shape, dtype=torch.float64), [halves, middle, whole])
        assert_moments(first_seen, {"w": torch.cat([expected, whole.values])}, 1e-10)


def test_uses_of_one_matrix_are_joined_and_others_added_up():
    pair = [Products(rand(4, t, 3), rand(4, t, 5), (3, 5)) for t in (2, 3)]
    joined = add_terms(pair)
    assert isinstance(joined, Products)
    assert joined.left.shape == (4, 5, 3)
    table = Gathered(torch.randint(0, 3, (4, 6)), rand(4, 6, 5), (3, 5))
    tied = add_terms([*pair, table])
    expected = sum(term.samples(0, 4) for term in (*pair, table))
    torch.testing.assert_close(tied.samples(1, 3), expected[1:3], rtol=1e-12, atol=1e-12)
    check_both([joined, tied], (3, 5))


@pytest.mark.parametrize("rows", [1, 3, 60])
def test_half_precision_factors_are_multiplied_in_float32(rows):
    left, right = (rand(4, rows, size, dtype=torch.bfloat16) for size in (6, 5))
    param = torch.zeros(6, 5, dtype=torch.bfloat16)
    grads = {"w": torch.einsum("nto,nti->noi", left.double(), right.double())}
    for new in (Moments, GroupMoments):
        moments = feed(new, param, [Products(left, right, (6, 5))])
        assert moments.mean["w"].dtype == torch.float32
        assert_moments(moments, grads, 1e-5)


def test_half_precision_tables_and_samples_are_added_up_in_float32():
    rows, grads = torch.randint(0, 5, (4, 30)), rand(4, 30, 3, dtype=torch.bfloat16)
    table = Gathered(rows, grads, (5, 3))
    exact = Gathered(rows, grads.double(), (5, 3)).samples(0, 4)
    param = torch.zeros(5, 3, dtype=torch.bfloat16)
    for new in (Moments, GroupMoments):
        assert_moments(feed(new, param, [table]), {"w": exact}, 1e-5)
        stored = Stored(exact.bfloat16())
        assert_moments(feed(new, param, [stored]), {"w": exact.bfloat16().double()}, 1e-5)


def test_a_tied_packed_parameter_goes_through_whole():
    """Views that overlap are added up in the parameter's own shape."""

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
