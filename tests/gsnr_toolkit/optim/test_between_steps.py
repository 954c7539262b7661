"""What happens between two SAM steps, and shared, sparse and unused weights, against the formula."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit import SAM

RHO = 0.2
BASES = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (torch.optim.AdamW, {"lr": 0.01, "eps": 0.01, "amsgrad": True}),
    (torch.optim.NAdam, {"lr": 0.01, "eps": 0.01}),
]


class Net(nn.Module):
    def __init__(self, weights):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(5, 4, sparse=weights == "sparse")
        self.middle, self.unused = nn.Linear(4, 4), nn.Linear(2, 2)
        self.out = nn.Linear(4, 5, bias=False)
        if weights == "shared":
            self.out.weight = self.embedding.weight
        self.double()

    def forward(self, tokens):
        return self.out(torch.tanh(self.middle(self.embedding(tokens))))

    def loss(self, index):
        generator = torch.Generator().manual_seed(index)
        tokens, labels = torch.randint(0, 5, (2, 6), generator=generator)
        return F.cross_entropy(self(tokens), labels)

    def early(self):
        return [*self.embedding.parameters(), *self.middle.parameters()]

    def late(self):
        return [p for p in [*self.out.parameters(), *self.unused.parameters()] if p is not self.embedding.weight]


class Ours:
    def __init__(self, weights, base, options, protocol):
        self.net, self.protocol = Net(weights), protocol
        self.optimizer = SAM(self.net.early(), base, rho=RHO, model=self.net, **options)

    def step(self, index):
        def back():
            self.net.loss(index).backward()

        self.net.zero_grad()
        if self.protocol == "closure":
            self.optimizer.step(back)
            return
        back()
        if self.optimizer.first_step():
            back()
        self.optimizer.second_step()


class Formula:
    """The literal twin."""

    def __init__(self, weights, base, options):
        self.net = Net(weights)
        self.optimizer = base(self.net.early(), **options)

    def step(self, index):
        self.net.zero_grad()
        self.net.loss(index).backward()
        held = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        old, grads = [p.detach().clone() for p in held], [p.grad.to_dense().clone() for p in held]
        norm = torch.stack([grad.norm() for grad in grads]).norm()
        for param, grad in zip(held, grads, strict=True):
            param.data.add_(RHO * grad / norm)
        self.net.zero_grad()
        self.net.loss(index).backward()
        for param, value in zip(held, old, strict=True):
            param.data.copy_(value)
        self.optimizer.step()


def another_group(run, index):
    if index == 2:
        run.optimizer.add_param_group({"params": run.net.late()})


def frozen_for_a_while(run, index):
    run.net.middle.weight.requires_grad_(index not in (2, 3))
    run.net.middle.weight.grad = None


def rolled_back(run, index):
    if index == 1:
        run.saved = copy.deepcopy((run.net.state_dict(), run.optimizer.state_dict()))
    if index == 3:
        run.net.load_state_dict(run.saved[0])
        run.optimizer.load_state_dict(run.saved[1])


def abandoned(run, index):
    if index in (2, 4) and isinstance(run, Ours):
        run.net.loss(99).backward()
        run.optimizer.first_step()
        run.optimizer.restore()


def copied(run, index):
    if index == 3:
        run.net, run.optimizer = copy.deepcopy((run.net, run.optimizer))


def moved_to_other_memory(run, index):
    for param in run.net.parameters():
        param.data = param.data.clone()


EVENTS = [another_group, frozen_for_a_while, rolled_back, abandoned, copied, moved_to_other_memory]


@pytest.mark.filterwarnings("error::gsnr_toolkit.ProbeWarning")
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("protocol", ["closure", "two steps"])
@pytest.mark.parametrize("weights", ["plain", "shared", "sparse"])
def test_events_between_steps(weights, protocol, event):
    for base, options in BASES[:1] if weights == "sparse" else BASES:
        ours, formula = Ours(weights, base, options, protocol), Formula(weights, base, options)
        for index in range(6):
            for run in (ours, formula):
                event(run, index)
                run.step(index)
            for value, right in zip(ours.net.parameters(), formula.net.parameters(), strict=True):
                torch.testing.assert_close(value, right, rtol=1e-9, atol=1e-10)


@pytest.mark.filterwarnings("ignore:expected perturbed parameters in float32")
@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 1e-5), (torch.float16, 1e-6), (torch.bfloat16, 1e-38)])
def test_a_small_gradient_in_half_precision_has_a_direction(dtype, size):
    weight = nn.Parameter(torch.ones(2, dtype=dtype))
    weight.grad = torch.tensor([3 * size, 4 * size], dtype=torch.float64).to(dtype)
    optimizer = SAM([weight], lr=0.1, rho=0.1)
    assert optimizer.first_step()
    torch.testing.assert_close(weight.detach().double(), torch.tensor([1.06, 1.08]).double(), rtol=0, atol=4e-3)
