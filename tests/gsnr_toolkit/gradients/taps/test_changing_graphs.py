"""Graphs that depend on the batch get their own plans; graphs that change from run to run are refused."""

import pytest
import torch
from torch import nn

from gsnr_toolkit.errors import EngineError
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.moments.by_parameter import Moments
from tests.support.tapped import Net, assert_same, make_task, tapped, truth


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64)


class Restless(nn.Module):
    """A different graph in every run on more than a few rows."""

    def __init__(self, still):
        super().__init__()
        self.layer, self.runs, self.still = nn.Linear(4, 3).double(), 0, still

    def forward(self, x):
        self.runs += 1
        x = self.layer(x)
        for _ in range(self.runs if len(x) > self.still else 0):
            x = x.cos()
        return x


@pytest.mark.parametrize("still", [0, 3])
def test_a_graph_that_changes_from_run_to_run_is_refused(still):
    task = make_task(Restless(still))
    with pytest.raises(EngineError, match=r"graph of its losses changed from one run to the next; pass engine='loop'"):
        TapsEngine(check=False).accumulate(task, (rand(6, 4),), Moments(), chunk_size=6)


BY_ROWS = {
    "even and odd": (lambda layer, x: layer(x).tanh() if len(x) % 2 else layer(x).tanh().neg().neg(), 2),
    "few and many": (lambda layer, x: layer(x) if len(x) < 4 else layer(x) * torch.ones(3).double(), 2),
    "one row at a time": (lambda layer, x: torch.cat([layer(row[None]) for row in x]), None),
}


@pytest.mark.parametrize("name", BY_ROWS)
def test_operations_that_depend_on_the_number_of_rows(name):
    forward, kinds = BY_ROWS[name]
    task = make_task(Net(lambda net, x: forward(net.layer, x), layer=nn.Linear(4, 3).double()))
    engine = TapsEngine()
    for count in (4, 7, 4, 6):
        batch = (rand(count, 4),)
        assert_same(tapped(task, batch, engine), truth(task, batch))
    assert kinds in (None, len(engine._plans))
    for reason in engine.other().values():
        assert reason.startswith("which rows of ")


class Branching(nn.Module):
    """The batch decides which layers run."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()

    def forward(self, x):
        layers = (self.first,) if x[0, 0] > 0 else (self.first, self.second)
        return sum(layer(x) for layer in layers)


def test_every_graph_has_its_own_plan():
    task, engine = make_task(Branching()), TapsEngine()
    for sign in (1, -1, 1):
        inputs = rand(6, 4)
        inputs[:, 0] = sign * inputs[:, 0].abs()
        assert_same(tapped(task, (inputs,), engine), truth(task, (inputs,)))
    assert sorted(len(plan.uses) for plan in engine._plans.values()) == [2, 4]
