"""A small network in float64, and a literal SAM step on it that shares no code with the package."""

import torch
from torch import nn
from torch.nn import functional as F

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def make_model(*, norm=False):
    torch.manual_seed(1)
    middle = [nn.LayerNorm(6)] if norm else []
    return nn.Sequential(nn.Linear(4, 6), *middle, nn.Tanh(), nn.Linear(6, 1)).double()


def make_batch(seed=0, rows=12):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()


def losses(model, batch):
    return F.binary_cross_entropy_with_logits(model(batch[0]).squeeze(-1), batch[1].double(), reduction="none")


def literal_gradient(model, batch, rho, *, adaptive=False, eta=0.0, chosen=None):
    """SAM's gradient, number by number: gradients by autograd.grad, perturbation on flat vectors."""
    params = list(model.parameters())
    chosen = [True] * len(params) if chosen is None else chosen
    old = [param.detach().clone() for param in params]
    grads = torch.autograd.grad(losses(model, batch).mean(), params)
    weight = torch.cat([w.flatten() for w, c in zip(old, chosen, strict=True) if c])
    gradient = torch.cat([g.flatten() for g, c in zip(grads, chosen, strict=True) if c])
    scale = weight.abs() + eta if adaptive else torch.ones_like(weight)
    step = list((rho * scale**2 * gradient / torch.linalg.vector_norm(scale * gradient)).tolist())
    with torch.no_grad():
        for param, take in zip(params, chosen, strict=True):
            if take:
                mine = [step.pop(0) for _ in range(param.numel())]
                param += torch.tensor(mine, dtype=param.dtype).view_as(param)
        assert not step
    after = torch.autograd.grad(losses(model, batch).mean(), params)
    with torch.no_grad():
        for param, value in zip(params, old, strict=True):
            param.copy_(value)
    return after


def literal_sgd(model, grads, lr):
    with torch.no_grad():
        for param, grad in zip(model.parameters(), grads, strict=True):
            param -= lr * grad


def bits(model):
    return [value.detach().clone() for value in model.state_dict().values()]


def assert_same_bits(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def closure_of(optimizer, model, batch):
    def closure():
        optimizer.zero_grad()
        loss = losses(model, batch).mean()
        loss.backward()
        return loss

    return closure


def run(optimizer, model, steps=5, **options):
    for step in range(steps):
        optimizer.step(closure_of(optimizer, model, make_batch(step)), **options)
