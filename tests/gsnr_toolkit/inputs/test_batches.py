from collections import namedtuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.batches import batch_length, join_batches, map_tensors, move_batch, rebatch, take_rows

Pair = namedtuple("Pair", "images labels")


def test_nesting_is_kept():
    batch = {"x": torch.zeros(2, 3), "pair": Pair(torch.zeros(2), [torch.ones(2), "name"])}
    shapes = map_tensors(batch, lambda t: tuple(t.shape))
    assert shapes == {"x": (2, 3), "pair": Pair((2,), [(2,), "name"])}
    assert isinstance(shapes["pair"], Pair)


def test_rows_are_views():
    x = torch.arange(10.0).view(5, 2)
    part = take_rows((x, x[:, 0]), 1, 3)
    part[0].zero_()
    assert x[1:3].abs().sum() == 0


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ("text", "holds tensors, got str"),
        ((torch.zeros(2), torch.zeros(3)), r"one row per sample, got shapes \[\(2,\), \(3,\)\]"),
        ((torch.zeros(2), torch.tensor(1.0)), "one row per sample"),
    ],
)
def test_odd_batches(batch, message):
    with pytest.raises(ProbeError, match=message):
        batch_length(batch)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6), size=st.integers(1, 9))
def test_rebatch_keeps_every_row_in_order(lengths, size):
    rows = torch.arange(float(sum(lengths)))
    batches = list(rebatch([(part, -part) for part in rows.split(lengths)], size))
    assert [len(batch[0]) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    torch.testing.assert_close(torch.cat([batch[0] for batch in batches]), rows)
    torch.testing.assert_close(torch.cat([batch[1] for batch in batches]), -rows)


def test_batches_of_the_right_size_pass_untouched():
    batches = [(torch.zeros(4, 3), torch.zeros(4)), (torch.zeros(4, 9), torch.zeros(4))]  # padded differently
    assert all(a is b for a, b in zip(rebatch(batches, 4), batches, strict=True))


def test_ragged_batches_cannot_be_joined():
    with pytest.raises(ProbeError, match="pad to one length"):
        join_batches([(torch.zeros(4, 3),), (torch.zeros(4, 9),)])


def test_moving():
    moved = move_batch({"x": torch.zeros(2)}, torch.device("meta"))
    assert moved["x"].device.type == "meta"
