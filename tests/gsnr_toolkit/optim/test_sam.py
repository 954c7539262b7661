"""The SAM step against a literal one, by each of its interfaces, for groups, schedulers and copies."""

import copy
import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gsnr_toolkit import SAM
from gsnr_toolkit.optim.perturbation import ascent_direction, perturbed
from tests.support.sam_reference import (
    EXACT,
    assert_same_bits,
    bits,
    closure_of,
    literal_gradient,
    literal_sgd,
    losses,
    make_batch,
    make_model,
    run,
)


@pytest.mark.parametrize(("adaptive", "eta"), [(False, 0.0), (True, 0.0), (True, 0.01)])
def test_equals_a_hand_computation(adaptive, eta):
    ours, theirs = make_model(), make_model()
    optimizer = SAM(ours, torch.optim.SGD, lr=0.3, rho=0.2, adaptive=adaptive, adaptive_eta=eta)
    for step in range(5):
        batch = make_batch(step)
        loss = optimizer.step(closure_of(optimizer, ours, batch))
        torch.testing.assert_close(loss, losses(theirs, batch).mean(), **EXACT)
        literal_sgd(theirs, literal_gradient(theirs, batch, 0.2, adaptive=adaptive, eta=eta), 0.3)
        torch.testing.assert_close(bits(ours), bits(theirs), **EXACT)
    plain = make_model()
    run(torch.optim.SGD(plain.parameters(), lr=0.3), plain)
    assert (plain[0].weight - ours[0].weight).abs().max() > 1e-3  # negative control: SAM does something


@pytest.mark.parametrize("adaptive", [False, True])
def test_equals_pytorch_optimizer(adaptive):
    peer = pytest.importorskip("pytorch_optimizer").SAM
    ours, theirs = make_model().float(), make_model().float()
    options = {"rho": 0.1, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
    optimizer = SAM(ours, torch.optim.SGD, adaptive=adaptive, adaptive_eta=0.0, **options)
    other = peer(theirs.parameters(), torch.optim.SGD, adaptive=adaptive, **options)
    for step in range(4):
        inputs, labels = make_batch(step)
        batch = inputs.float(), labels

        def backward(model, batch=batch):
            loss = losses(model, batch).mean()
            loss.backward()
            return loss

        optimizer.step(lambda: backward(ours))
        other.zero_grad()
        backward(theirs)  # this library wants the first gradients before its step
        other.step(lambda: backward(theirs))
    torch.testing.assert_close(bits(ours), bits(theirs), rtol=1e-6, atol=1e-6)


def test_both_interfaces_and_the_context_agree():
    finals = []
    for interface in ("closure", "two steps", "context"):
        model = make_model()
        optimizer = SAM(model.named_parameters(), torch.optim.AdamW, lr=0.01, rho=0.1)
        for step in range(3):
            closure = closure_of(optimizer, model, make_batch(step))
            if interface == "closure":
                optimizer.step(closure)
                continue
            optimizer.zero_grad()
            closure()
            if interface == "two steps":
                assert optimizer.first_step()
                closure()
            else:
                with optimizer.perturbed() as again:
                    assert again
                    closure()
            optimizer.second_step()
        finals.append(bits(model))
    assert_same_bits(finals[1], finals[0])
    assert_same_bits(finals[2], finals[0])


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop])
def test_rho_zero_is_the_base_optimizer(base):
    ours, theirs = make_model(), make_model()
    run(SAM(ours, base, lr=0.02, rho=0.0), ours)
    run(base(theirs.parameters(), lr=0.02), theirs)
    assert_same_bits(bits(ours), bits(theirs))


def test_rho_towards_zero_tends_to_the_base_optimizer():
    gaps = []
    plain = make_model()
    run(torch.optim.SGD(plain.parameters(), lr=0.1), plain)
    for rho in (1e-2, 1e-3, 1e-4):
        model = make_model()
        run(SAM(model, lr=0.1, rho=rho), model)
        gaps.append(max(float((a - b).abs().max()) for a, b in zip(bits(model), bits(plain), strict=True)))
    assert gaps[0] > 0
    for before, after in itertools.pairwise(gaps):
        assert after == pytest.approx(before / 10, rel=0.1)  # the first order in rho


@settings(max_examples=25, deadline=None)
@given(rho=st.floats(1e-6, 10), seed=st.integers(0, 1000), adaptive=st.booleans(), only_weights=st.booleans())
def test_the_perturbation_has_length_rho(rho, seed, adaptive, only_weights):
    model = make_model()
    chosen = (lambda name, _: name.endswith("weight")) if only_weights else "all"
    optimizer = SAM(model, rho=rho, adaptive=adaptive, adaptive_eta=0.1, perturb=chosen)
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    losses(model, make_batch(seed)).mean().backward()
    with optimizer.perturbed():
        total = 0.0
        for name, param in model.named_parameters():
            moved = (param.detach() - before[name]) / (before[name].abs() + 0.1 if adaptive else 1.0)
            assert only_weights is False or name.endswith("weight") or not moved.any()
            total += float(moved.square().sum())
    # the difference of two weights near 1 is known to 1e-16
    assert math.sqrt(total) == pytest.approx(rho, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("adaptive", [False, True])
def test_training_perturbs_to_where_cor_is_measured(model, batch, adaptive):
    model = model.float()
    loss = losses(model, (batch[0].float(), batch[1])).mean()
    params = {name: param.detach().clone() for name, param in model.named_parameters()}
    optimizer = SAM(model, rho=0.05, adaptive=adaptive)
    loss.backward()
    gradient = {name: param.grad.clone() for name, param in model.named_parameters()}
    direction = ascent_direction(gradient, weights=params if adaptive else None, eta=0.01)
    with optimizer.perturbed():
        there = {name: param.detach().clone() for name, param in model.named_parameters()}
    assert_same_bits(there, perturbed(params, direction, 0.05))


def test_asam_does_not_see_a_rescaling_of_layers():
    batch = make_batch()

    def perturbed_loss(factor, *, adaptive):
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)).double()
        torch.manual_seed(3)
        for param in model.parameters():
            nn.init.normal_(param)
        with torch.no_grad():
            model[0].weight.mul_(factor)
            model[0].bias.mul_(factor)
            model[2].weight.div_(factor)
        optimizer = SAM(model, rho=0.5, adaptive=adaptive, adaptive_eta=0.0)
        losses(model, batch).mean().backward()
        with optimizer.perturbed():
            return losses(model, batch).mean().detach()

    torch.testing.assert_close(perturbed_loss(7.0, adaptive=True), perturbed_loss(1.0, adaptive=True), **EXACT)
    assert abs(perturbed_loss(7.0, adaptive=False) - perturbed_loss(1.0, adaptive=False)) > 1e-2  # negative control


def test_perturbing_norms_only():
    ours, theirs = make_model(norm=True), make_model(norm=True)
    chosen = ["1." in name for name, _ in theirs.named_parameters()]
    by_kind = SAM(ours.parameters(), lr=0.3, rho=0.7, perturb="norms", model=ours)
    by_kind.step(closure_of(by_kind, ours, make_batch()))
    literal_sgd(theirs, literal_gradient(theirs, make_batch(), 0.7, chosen=chosen), 0.3)
    torch.testing.assert_close(bits(ours), bits(theirs), **EXACT)
    by_name = make_model(norm=True)
    optimizer = SAM(by_name.named_parameters(), lr=0.3, rho=0.7, perturb=lambda name, _: name.startswith("1."))
    optimizer.step(closure_of(optimizer, by_name, make_batch()))
    assert_same_bits(bits(by_name), bits(ours))


def test_groups_keep_their_options_and_have_radii_of_their_own(model, batch):
    groups = [
        {"params": model[0].parameters(), "lr": 0.3, "weight_decay": 0.1, "rho": 0.2},
        {"params": model[2].parameters(), "rho": 0.0},
    ]
    optimizer = SAM(groups, torch.optim.SGD, lr=0.1)
    assert [(g["lr"], g["weight_decay"], g["rho"]) for g in optimizer.param_groups] == [(0.3, 0.1, 0.2), (0.1, 0, 0.0)]
    before = bits(model)
    losses(model, batch).mean().backward()
    with optimizer.perturbed():
        moved = [float((a - b).norm()) for a, b in zip(bits(model), before, strict=True)]
    assert moved[2:] == [0, 0]
    assert math.hypot(*moved[:2]) == pytest.approx(0.2, rel=1e-12)  # a group of rho 0 is not in the norm


def test_a_group_added_later_is_the_base_optimizers_too(model):
    optimizer = SAM(model[0].parameters(), torch.optim.AdamW, lr=0.1, rho=0.3)
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.5})
    assert optimizer.base_optimizer.param_groups is optimizer.param_groups
    assert (optimizer.param_groups[1]["lr"], optimizer.param_groups[1]["rho"]) == (0.5, 0.3)
    before = bits(model)
    optimizer.step(closure_of(optimizer, model, make_batch()))
    assert all((a != b).any() for a, b in zip(bits(model), before, strict=True))


def test_where_the_base_maximises_sharpness_lies_downhill():
    up, down = make_model(), make_model()
    climbing, descending = SAM(up, lr=0.3, rho=0.2, maximize=True), SAM(down, lr=0.3, rho=0.2)
    climbing.step(lambda: (-losses(up, make_batch()).mean()).backward())
    descending.step(lambda: losses(down, make_batch()).mean().backward())
    torch.testing.assert_close(bits(up), bits(down), **EXACT)


@pytest.mark.parametrize("which", ["optimizer", "base_optimizer"])
@pytest.mark.parametrize("two_steps", [False, True])
def test_learning_rate_schedulers(which, two_steps):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns where it misses the optimizer's step
        model = make_model()
        optimizer = SAM(model, lr=1.0, rho=0.1)
        scheduled = optimizer if which == "optimizer" else optimizer.base_optimizer
        scheduler = torch.optim.lr_scheduler.StepLR(scheduled, 1, gamma=0.5)
        for step, lr in enumerate((1.0, 0.5, 0.25)):
            before = model[2].bias.detach().clone()
            expected = lr * literal_gradient(model, make_batch(step), 0.1)[-1]
            closure = closure_of(optimizer, model, make_batch(step))
            if two_steps:
                optimizer.zero_grad()
                closure()
                optimizer.first_step()
                closure()
                optimizer.second_step()
            else:
                optimizer.step(closure)
            torch.testing.assert_close(before - model[2].bias.detach(), expected, **EXACT)
            scheduler.step()


def test_copies_are_whole(model):
    optimizer = SAM(model, torch.optim.AdamW, lr=0.1, rho=0.1)
    run(optimizer, model, 2)
    twin, other = copy.deepcopy((model, optimizer))
    assert other.base_optimizer.param_groups is other.param_groups
    run(optimizer, model, 2)
    run(other, twin, 2)
    assert_same_bits(bits(twin), bits(model))


def test_sparse_gradients():
    torch.manual_seed(0)
    finals = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table = nn.Embedding(7, 3, sparse=sparse)
        optimizer = SAM(table, lr=0.5, rho=0.3)
        optimizer.step(lambda table=table: table(torch.tensor([1, 4, 4])).square().sum().backward())
        finals.append(table.weight.detach())
    torch.testing.assert_close(finals[1], finals[0])


def test_a_function_may_make_the_base_optimizer(model):
    optimizer = SAM(model, lambda groups: torch.optim.SGD(groups, lr=0.7, momentum=0.9))
    assert [group["lr"] for group in optimizer.param_groups] == [0.7]
    assert isinstance(optimizer.base_optimizer, torch.optim.SGD)


@pytest.mark.parametrize("adaptive", [False, True])
def test_complex_weights_are_pairs_of_real_ones(adaptive):
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(4, 2, generator=generator, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    whole = nn.Parameter(torch.view_as_complex(weight.clone()))
    parts = nn.Parameter(weight.clone())
    x = torch.view_as_complex(inputs)

    def loss(w):
        return ((w * x).sum().abs() - 1).square() + (w.abs() ** 4).sum()

    optimizer = SAM([whole], torch.optim.SGD, lr=0.1, rho=0.2, adaptive=adaptive)
    for _ in range(3):

        def closure():
            value = loss(whole)
            value.backward()
            return value.detach()

        optimizer.step(closure)
        (grad,) = torch.autograd.grad(loss(torch.view_as_complex(parts)), parts)
        # |w| of a complex weight scales both of its parts
        scale = parts.norm(dim=1, keepdim=True) + 0.01 if adaptive else torch.ones(4, 1, dtype=torch.float64)
        moved = (parts + 0.2 * scale**2 * grad / (scale * grad).norm()).detach().requires_grad_()
        (after,) = torch.autograd.grad(loss(torch.view_as_complex(moved)), moved)
        with torch.no_grad():
            parts -= 0.1 * after
    torch.testing.assert_close(torch.view_as_real(whole.detach()), parts.detach(), rtol=1e-10, atol=1e-12)
