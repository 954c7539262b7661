"""The norm that SAM shows after a step, against autograd, for groups, schedules, ASAM and a GradScaler."""

import math

import pytest
import torch

from gsnr_toolkit import SAM
from gsnr_toolkit.optim.rho import WarmStart
from tests.support.sam_reference import closure_of, losses, make_batch, make_model


def literal_norm(model, batch, *, eta=None, chosen=lambda name: True):
    named = [(name, param) for name, param in model.named_parameters() if chosen(name)]
    grads = torch.autograd.grad(losses(model, batch).mean(), [param for _, param in named])
    scales = [1.0 if eta is None else param.detach().abs() + eta for _, param in named]
    return math.sqrt(sum(float((scale * grad).square().sum()) for scale, grad in zip(scales, grads, strict=True)))


@pytest.mark.parametrize("eta", [None, 0.0, 0.01])
@pytest.mark.parametrize("part", ["", "0."])
def test_plain_and_sam_steps_show_one_norm(eta, part):
    def chosen(name, param=None):
        return name.startswith(part)

    model = make_model()
    options = {"adaptive": eta is not None, "adaptive_eta": eta or 0.0, "perturb": chosen}
    optimizer = SAM(model, lr=0.3, rho=0.2, rho_schedule=WarmStart(2), **options)
    optimizer.watch_norm = True
    for number in range(4):  # two plain steps, two of SAM
        batch = make_batch(number)
        expected = literal_norm(model, batch, eta=eta, chosen=chosen)
        optimizer.step(closure_of(optimizer, model, batch))
        assert optimizer.grad_norm == pytest.approx(expected, rel=1e-12)


def test_a_plain_step_has_no_norm_unless_asked_and_the_steps_are_the_same():
    models = make_model(), make_model()
    optimizers = [SAM(model, lr=0.3, rho=0.0) for model in models]
    optimizers[1].watch_norm = True
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.step(closure_of(optimizer, model, make_batch()))
    assert math.isnan(optimizers[0].grad_norm)
    assert optimizers[1].grad_norm == pytest.approx(literal_norm(make_model(), make_batch()))
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_groups_with_their_own_radius_0_do_not_count():
    model = make_model()
    groups = [{"params": model[0].parameters(), "rho": 0.2}, {"params": model[2].parameters(), "rho": 0.0}]
    optimizer = SAM(groups, lr=0.1, rho_schedule=WarmStart(1))
    optimizer.watch_norm = True
    for number in range(2):
        expected = literal_norm(model, make_batch(number), chosen=lambda name: name.startswith("0."))
        optimizer.step(closure_of(optimizer, model, make_batch(number)))
        assert optimizer.grad_norm == pytest.approx(expected)


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_the_norm_is_unscaled_and_unclipped(rho):
    model, scaler = make_model().float(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    batch = make_batch()[0].float(), make_batch()[1].float()
    expected = literal_norm(model, batch)
    optimizer = SAM(model, lr=0.1, rho=rho)
    optimizer.watch_norm = True
    scaler.scale(_mean(model, batch)).backward()
    if optimizer.first_step(scaler=scaler):
        scaler.scale(_mean(model, batch)).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.second_step(scaler=scaler)
    assert optimizer.grad_norm == pytest.approx(expected, rel=1e-4)


def _mean(model, batch):
    return torch.nn.functional.binary_cross_entropy_with_logits(model(batch[0]).squeeze(-1), batch[1])


def test_a_skipped_step_does_not_show_the_norm_of_the_one_before():
    model = make_model()
    optimizer = SAM(model, lr=0.1, rho=0.1)
    optimizer.step(closure_of(optimizer, model, make_batch()))
    assert optimizer.grad_norm > 0
    inputs, labels = make_batch()
    with pytest.warns(UserWarning, match="not finite"):
        optimizer.step(closure_of(optimizer, model, (inputs * math.nan, labels)))
    assert math.isnan(optimizer.grad_norm)
