"""View operations read from the graph and replayed, against the operation itself."""

import pytest
import torch

from gsnr_toolkit.gradients.taps.graph import operation
from gsnr_toolkit.gradients.taps.views import View, are_disjoint, can_follow, follow, read_view

OPERATIONS = {
    "t": lambda x: x[0].t(),
    "transpose": lambda x: x.transpose(0, 2),
    "transpose, from the end": lambda x: x.transpose(-1, -3),
    "mT": lambda x: x.mT,
    "permute": lambda x: x.permute(2, 0, 1),
    "permute, from the end": lambda x: x.permute(-1, 0, -2),
    "select": lambda x: x.select(1, 2),
    "select, from the end": lambda x: x.select(-2, -1),
    "slice": lambda x: x[:, 1:3],
    "slice, from the end": lambda x: x[..., -3:-1],
    "slice, with a step": lambda x: x[:, :, 1::2],
    "slice, to the end": lambda x: x[1:],
    "split": lambda x: x.split(3, 2)[1],
    "split, from the end": lambda x: x.split(2, -1)[2],
    "split, sizes": lambda x: x.split([1, 2, 3], -1)[1],
    "chunk": lambda x: x.chunk(2, 1)[1],
    "unbind": lambda x: x.unbind(1)[3],
    "unbind, from the end": lambda x: x.unbind(-1)[0],
    "view": lambda x: x.view(6, 8),
    "view, one number open": lambda x: x.view(-1),
    "reshape": lambda x: x.reshape(2, 2, 2, 6),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(2, (2, 3)),
    "squeeze": lambda x: x.narrow(0, 0, 1).squeeze(0),
    "squeeze, all": lambda x: x[:, :1].squeeze(),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "view_as": lambda x: x.view_as(torch.empty(6, 8)),
    "contiguous": lambda x: x.contiguous(),
    "clone": lambda x: x.clone(),
    "to": lambda x: x.to(torch.float64),
    "several": lambda x: x.transpose(1, 2)[1, 2:].unflatten(-1, (2, 2)).movedim(0, -1)[0],
}


def _views(output):
    """Return all operations from the leaf to an output, in order."""
    found, node, nr = [], output.grad_fn, output.output_nr
    while hasattr(node, "next_functions") and node.next_functions:
        found.append(read_view(node, operation(node), nr))
        node, nr = node.next_functions[0]
    return tuple(reversed(found))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_replayed_view_equals_the_operation(name):
    """Numbered entries show where each one came from."""
    leaf = torch.arange(48.0).view(2, 4, 6).requires_grad_()
    expected = OPERATIONS[name](leaf)
    views = _views(expected)
    assert None not in views
    other = leaf.detach().clone()
    replayed = follow(views, other)
    torch.testing.assert_close(replayed, expected.detach().to(replayed.dtype), rtol=0, atol=0)
    replayed.fill_(-1)
    shown = torch.isin(leaf.detach(), expected.detach().to(leaf.dtype).flatten())
    torch.testing.assert_close(other == -1, shown)  # it shares memory, and no other entry changed
    assert can_follow(views, tuple(leaf.shape))


@pytest.mark.parametrize("make", [torch.exp, lambda x: x + 1, lambda x: x.expand(3, 2, 2), lambda x: x.sum(0)])
def test_other_operations_are_not_read_as_views(make):
    node = make(torch.zeros(2, 2, requires_grad=True)).grad_fn
    assert read_view(node, operation(node), 0) is None


def test_strides_that_forbid_a_view():
    views = (View("TBackward"), View("view", ((6,),)))
    assert not can_follow(views, (2, 3))
    assert can_follow(views, (1, 6))
    with pytest.raises(RuntimeError, match="view size"):
        follow(views, torch.zeros(2, 3))


def test_disjoint_and_overlapping_views():
    rows = [(View("SliceBackward", (0, a, b, 1)),) for a, b in ((0, 2), (2, 5), (4, 6))]
    assert are_disjoint(rows[:2], (6, 3))
    assert not are_disjoint(rows, (6, 3))
    assert not are_disjoint([rows[0], (View("TBackward"),)], (6, 3))
    comb = [(View("SliceBackward", (0, a, 6, 2)),) for a in (0, 1)]
    assert are_disjoint(comb, (6, 3))
    assert are_disjoint([()], (6, 3))
    assert not are_disjoint([(), rows[0]], (6, 3))
