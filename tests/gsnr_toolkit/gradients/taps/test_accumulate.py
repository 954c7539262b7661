"""Moments of tables, of formed samples and of parts that cover only some of a parameter, against two passes."""

import pytest
import torch

from gsnr_toolkit.gradients.taps import accumulate
from gsnr_toolkit.gradients.taps.accumulate import row_blocks, sample_blocks
from gsnr_toolkit.gradients.taps.terms import Computed, Gathered, Products, Stored, add_terms
from gsnr_toolkit.gradients.taps.views import View
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from tests.support.moments_reference import assert_moments, check_both, feed, rand

pytestmark = pytest.mark.usefixtures("every_kernel", "poisoned_memory")


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


def test_blocks_of_rows_hold_the_rows_that_were_looked_up(monkeypatch):
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


def test_views_that_do_not_cover_the_parameter():
    """The gradient between the views is zero, also in entries that had another gradient before."""
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


def test_uses_of_one_matrix_are_joined_and_others_added():
    pair = [Products(rand(4, t, 3), rand(4, t, 5), (3, 5)) for t in (2, 3)]
    joined = add_terms(pair)
    assert isinstance(joined, Products)
    assert joined.left.shape == (4, 5, 3)
    table = Gathered(torch.randint(0, 3, (4, 6)), rand(4, 6, 5), (3, 5))
    tied = add_terms([*pair, table])
    expected = sum(term.samples(0, 4) for term in (*pair, table))
    torch.testing.assert_close(tied.samples(1, 3), expected[1:3], rtol=1e-12, atol=1e-12)
    check_both([joined, tied], (3, 5))


def test_half_precision_tables_and_samples_are_summed_in_float32():
    rows, grads = torch.randint(0, 5, (4, 30)), rand(4, 30, 3, dtype=torch.bfloat16)
    table = Gathered(rows, grads, (5, 3))
    exact = Gathered(rows, grads.double(), (5, 3)).samples(0, 4)
    param = torch.zeros(5, 3, dtype=torch.bfloat16)
    for new in (Moments, GroupMoments):
        assert_moments(feed(new, param, [table]), {"w": exact}, 1e-5)
        stored = Stored(exact.bfloat16())
        assert_moments(feed(new, param, [stored]), {"w": exact.bfloat16().double()}, 1e-5)
