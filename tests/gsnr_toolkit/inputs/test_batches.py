from collections import namedtuple

import pytest
import torch

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.batches import batch_length, join_batches, map_tensors, move_batch, take_rows

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


def test_ragged_batches_cannot_be_joined():
    with pytest.raises(ProbeError, match="pad to one length"):
        join_batches([(torch.zeros(4, 3),), (torch.zeros(4, 9),)])


def test_moving():
    moved = move_batch({"x": torch.zeros(2)}, torch.device("meta"))
    assert moved["x"].device.type == "meta"
