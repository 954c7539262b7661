"""Moments of matrix products and windows, whole and in views of a parameter, against two passes."""

import pytest
import torch

from gsnr_toolkit.gradients.kernels import sqnorms, tiles
from gsnr_toolkit.gradients.taps.terms import Products, Stored, Windows, add_terms
from gsnr_toolkit.gradients.taps.views import View
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from tests.support.moments_reference import assert_moments, check_both, feed, rand

pytestmark = pytest.mark.usefixtures("every_kernel", "poisoned_memory")


@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"), [(1, 9, 4), (1, 4, 9), (2, 9, 4), (2, 4, 9), (40, 5, 3), (40, 3, 5)]
)
@pytest.mark.parametrize("counts", [(4, 3), (1, 5), (1,), (1, 1, 1)])
def test_matrix_products(rows, outputs, inputs, counts):
    """Covers ghost and formed norms, both orientations, one row per sample, and one sample per batch."""
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
    """Windows are read without a copy, and written out where a view or a second use of the kernel needs it."""
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


@pytest.mark.parametrize("rows", [1, 3, 60])
def test_half_precision_factors_are_multiplied_in_float32(rows):
    left, right = (rand(4, rows, size, dtype=torch.bfloat16) for size in (6, 5))
    param = torch.zeros(6, 5, dtype=torch.bfloat16)
    grads = {"w": torch.einsum("nto,nti->noi", left.double(), right.double())}
    for new in (Moments, GroupMoments):
        moments = feed(new, param, [Products(left, right, (6, 5))])
        assert moments.mean["w"].dtype == torch.float32
        assert_moments(moments, grads, 1e-5)
