"""The graph of a batch's losses, and gradients of values inside it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit.gradients.taps.graph import Consumer, Graph, operation


def _graph(model, inputs):
    leaves = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    outputs = torch.func.functional_call(model, leaves, (inputs,))
    return Graph(outputs.square().sum(1), leaves), leaves


def _mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()


def _pulled(graph, wanted, weights=None, retain=False):
    found = {}
    ones = torch.ones_like(graph.losses) if weights is None else weights
    graph.pull(wanted, ones, lambda i, grads: found.update({i: grads}), retain=retain)
    return found


def test_edges_and_leaves():
    graph, leaves = _graph(_mlp(), torch.randn(3, 4, dtype=torch.float64))
    assert graph.names[0] == "SumBackward"
    assert set(graph.leaves) == set(leaves)
    for name, position in graph.leaves.items():
        assert graph.nodes[position].variable is leaves[name]
        assert graph.shape((position, 0)) == tuple(leaves[name].shape)
    for parent, edges in enumerate(graph.inputs):
        for slot, edge in enumerate(edges):
            if edge is not None:
                assert Consumer(parent, slot) in graph.above(edge)
                assert graph.nodes[parent].next_functions[slot][0] is graph.nodes[edge[0]]
    assert graph.above((0, 0)) == []
    assert graph.outputs(0) == [0]


def test_signature_depends_on_the_operations_only():
    model = _mlp()
    three, seven = (_graph(model, torch.randn(n, 4, dtype=torch.float64))[0] for n in (3, 7))
    assert three.signature == seven.signature
    other = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 2)).double()
    assert _graph(other, torch.randn(3, 4, dtype=torch.float64))[0].signature != three.signature
    x = torch.randn(3, 4, dtype=torch.float64)
    tied, apart = (_graph(model, x)[0] for model in (_Tied(True), _Tied(False)))
    assert sorted(set(tied.names)) == sorted(set(apart.names))
    assert tied.signature != apart.signature


class _Tied(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.randn(4, 4, dtype=torch.float64)) for _ in range(2))
        self.tied = tied

    def forward(self, x):
        return x @ self.a @ (self.a if self.tied else self.b)


def test_bottom_up_puts_every_node_after_those_below_it():
    graph, _ = _graph(_mlp(), torch.randn(3, 4, dtype=torch.float64))
    order = graph.bottom_up()
    place = {position: i for i, position in enumerate(order)}
    assert sorted(order) == list(range(len(graph.nodes)))
    for parent, edges in enumerate(graph.inputs):
        assert all(place[edge[0]] < place[parent] for edge in edges if edge is not None)


def test_pull_gives_the_gradients_of_values_in_the_middle():
    model, x = _mlp(), torch.randn(3, 4, dtype=torch.float64)
    graph, leaves = _graph(model, x)
    hidden = (x @ leaves["0.weight"].t() + leaves["0.bias"]).detach().requires_grad_()
    outputs = (torch.tanh(hidden) @ leaves["2.weight"].t() + leaves["2.bias"]).detach().requires_grad_()
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (expected_outputs,) = torch.autograd.grad((weights * outputs.square().sum(1)).sum(), outputs)
    recomputed = torch.tanh(hidden) @ leaves["2.weight"].detach().t() + leaves["2.bias"].detach()
    (expected_hidden,) = torch.autograd.grad((weights * recomputed.square().sum(1)).sum(), hidden)
    last, first = (i for i, name in enumerate(graph.names) if name == "AddmmBackward")
    for wanted in ({last}, {first}, {first, last}):
        found = _pulled(graph, wanted, weights, retain=True)
        assert found.keys() == wanted
        for position, expected in ((last, expected_outputs), (first, expected_hidden)):
            if position in wanted:
                torch.testing.assert_close(found[position][0], expected)
    assert all(leaf.grad is None for leaf in leaves.values())


def test_hooks_are_removed_afterwards():
    graph, _ = _graph(_mlp(), torch.randn(3, 4, dtype=torch.float64))
    calls = []
    last, first = (i for i, name in enumerate(graph.names) if name == "AddmmBackward")
    graph.pull({last, first}, torch.ones(3, dtype=torch.float64), lambda i, _: calls.append(i), retain=True)
    graph.losses.sum().backward()
    assert sorted(calls) == sorted({last, first})


def test_hooks_are_removed_after_an_error():
    graph, _ = _graph(_mlp(), torch.randn(3, 4, dtype=torch.float64))
    last, first = (i for i, name in enumerate(graph.names) if name == "AddmmBackward")

    def broken(position, grads):
        raise RuntimeError("my own trouble")

    with pytest.raises(RuntimeError, match="my own trouble"):
        graph.pull({last, first}, torch.ones(3, dtype=torch.float64), broken, retain=True)
    graph.losses.sum().backward()


def test_the_losses_own_node_can_be_pulled():
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)
    graph = Graph(torch.randn(3, 4, dtype=torch.float64) @ weight, {"w": weight})
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(_pulled(graph, {0}, weights)[0][0], weights)


def test_unused_outputs_have_no_gradient():
    packed = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    first, _, last = packed.split(2, 1)
    graph = Graph((first * last).sum(1), {"packed": packed})
    split = graph.names.index("SplitBackward")
    assert graph.outputs(split) == [0, 2]
    grads = _pulled(graph, {split})[split]
    torch.testing.assert_close(grads[0], last.detach())
    torch.testing.assert_close(grads[2], first.detach())
    assert grads[1] is None


def test_names_have_no_number():
    x = torch.ones(2, 3, requires_grad=True)
    assert operation(F.layer_norm(x, (3,)).grad_fn) == "NativeLayerNormBackward"
    assert operation((x * 2).sum(1).grad_fn) == "SumBackward"
