"""Torch keeps copies of weights inside autocast and parametrize.cached(); SAM's second pass must not see them."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from gsnr_toolkit import SAM
from gsnr_toolkit.optim import sam_step

INPUTS = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()
RHO, LR = 2.0, 0.5


def cast(**options):
    return torch.autocast("cpu", dtype=torch.bfloat16, **options)


def new_model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def loss_of(model):
    return F.cross_entropy(model(INPUTS), LABELS)


def literal(steps, block=cast, outer=nullcontext):
    """SAM with SGD by hand; every pass has an autocast block of its own, so that no copy outlives it."""
    model = new_model()
    params = list(model.parameters())
    for _ in range(steps):
        old = [p.detach().clone() for p in params]
        for moved in (True, False):
            with outer():
                with block():
                    loss = loss_of(model)
                grads = torch.autograd.grad(loss, params)
            norm = torch.sqrt(sum(g.double().square().sum() for g in grads)).float()
            with torch.no_grad():
                for p, o, g in zip(params, old, grads, strict=True):
                    p.copy_(o + RHO * g / norm if moved else o - LR * g)
    return params


def by_closure(optimizer, model, block):
    def closure():
        with block():
            loss = loss_of(model)
        loss.backward()

    optimizer.step(closure)


def by_two_steps(optimizer, model, block):
    with block():
        loss = loss_of(model)
    optimizer.zero_grad()
    loss.backward()
    optimizer.first_step()
    with block():
        loss = loss_of(model)
    loss.backward()
    optimizer.second_step()


def by_context(optimizer, model, block):
    optimizer.zero_grad()
    with block():
        loss = loss_of(model)
    loss.backward()
    with optimizer.perturbed():
        with block():
            loss = loss_of(model)
        loss.backward()
    optimizer.second_step()


def by_sam_step(optimizer, model, block):
    def losses(model, batch):
        with block():
            return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    sam_step(model, (INPUTS, LABELS), losses, optimizer)


WAYS = [by_closure, by_two_steps, by_context, by_sam_step]
OUTER = {"a step": (cast, nullcontext), "both": (cast, cast), "inner": (nullcontext, cast)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", OUTER)
@pytest.mark.parametrize("whole", [False, True], ids=["a block a step", "one block for all steps"])
def test_autocast_anywhere_gives_the_same_step(way, where, whole):
    outer, inner = OUTER[where]
    model = new_model()
    optimizer = SAM(model, torch.optim.SGD, lr=LR, rho=RHO)
    with outer() if whole else nullcontext():
        for _ in range(3):
            with nullcontext() if whole else outer():
                way(optimizer, model, inner)
    torch.testing.assert_close(list(model.parameters()), literal(3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_disabled_block_inside_an_autocast_block(way):
    def disabled():
        return cast(enabled=False)

    model = new_model()
    optimizer = SAM(model, torch.optim.SGD, lr=LR, rho=RHO)
    with cast():
        for _ in range(3):
            way(optimizer, model, disabled)
    torch.testing.assert_close(list(model.parameters()), literal(3, disabled, cast), rtol=1e-5, atol=1e-6)


def test_an_evaluation_after_the_step_in_the_same_block_sees_the_new_weights():
    model = new_model()
    optimizer = SAM(model, torch.optim.SGD, lr=LR, rho=RHO)
    with cast():
        by_closure(optimizer, model, nullcontext)
        inside = loss_of(model)
    with cast():
        outside = loss_of(model)
    assert inside.item() == outside.item()


def test_a_step_that_fails_leaves_no_copy_of_perturbed_weights():
    model = new_model()
    optimizer = SAM(model, torch.optim.SGD, lr=LR, rho=RHO)
    calls = []

    def closure():
        loss = loss_of(model)
        calls.append(loss.item())
        if len(calls) == 2:
            raise KeyboardInterrupt
        loss.backward()

    with cast():
        with pytest.raises(KeyboardInterrupt):
            optimizer.step(closure)
        assert loss_of(model).item() == calls[0] != calls[1]


@pytest.mark.parametrize("way", WAYS)
def test_cached_parametrizations_are_computed_anew(way):
    made = []
    for cached in (False, True):
        model = new_model()
        parametrizations.weight_norm(model[0])
        optimizer = SAM(model, torch.optim.SGD, lr=LR, rho=RHO)
        with parametrize.cached() if cached else nullcontext():
            for _ in range(2):
                way(optimizer, model, nullcontext)
        made.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(made[1], made[0], rtol=0, atol=0)
