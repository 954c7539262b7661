"""m-sharpness and accumulation, by hand and by sam_step, against literal loops; running statistics counted once."""

import math

import pytest
import torch
from torch import nn

from gsnr_toolkit import SAM, ProbeError, ProbeWarning
from gsnr_toolkit.optim import WarmStart, keep_running_stats, sam_step
from tests.support.sam_reference import (
    assert_same_bits,
    bits,
    literal_gradient,
    literal_sgd,
    losses,
    make_batch,
    make_model,
)

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def cut(batch, size):
    return [(batch[0][i : i + size], batch[1][i : i + size]) for i in range(0, len(batch[0]), size)]


def literal_m_sharpness(model, batch, rho, size):
    """Each micro-batch's own SAM gradient, weighted by its rows."""
    parts = [(len(part[0]), literal_gradient(model, part, rho)) for part in cut(batch, size)]
    rows = len(batch[0])
    return [sum(count / rows * grads[i] for count, grads in parts) for i in range(len(parts[0][1]))]


@pytest.mark.parametrize("size", [None, 12, 4, 5, 1])
@pytest.mark.parametrize("sharpness", ["batch", "micro"])
def test_sam_step_equals_a_literal_loop(size, sharpness):
    ours, theirs = make_model(), make_model()
    optimizer = SAM(ours, lr=0.3, rho=0.4)
    for step in range(3):
        batch = make_batch(step)
        expected = losses(theirs, batch).mean().detach()
        loss = sam_step(ours, batch, losses, optimizer, size, sharpness=sharpness)
        torch.testing.assert_close(loss, expected, **EXACT)
        if sharpness == "batch":
            grads = literal_gradient(theirs, batch, 0.4)
        else:
            grads = literal_m_sharpness(theirs, batch, 0.4, size or 12)
        literal_sgd(theirs, grads, 0.3)
        torch.testing.assert_close(bits(ours), bits(theirs), **EXACT)


def test_the_two_kinds_of_sharpness_differ():
    finals = []
    for sharpness in ("batch", "micro"):
        model = make_model()
        sam_step(model, make_batch(), losses, SAM(model, lr=0.3, rho=0.4), 3, sharpness=sharpness)
        finals.append(model[0].weight.detach())
    assert (finals[0] - finals[1]).abs().max() > 1e-3


def test_both_kinds_by_hand():
    """The loops of docs/sam.md."""
    batch = make_batch()
    gathered = make_model()
    optimizer = SAM(gathered, lr=0.3, rho=0.4)

    def closure():
        for part in cut(batch, 4):
            (losses(gathered, part).sum() / 12).backward()

    optimizer.step(closure)
    reference = make_model()
    literal_sgd(reference, literal_gradient(reference, batch, 0.4), 0.3)
    torch.testing.assert_close(bits(gathered), bits(reference), **EXACT)

    alone = make_model()
    optimizer = SAM(alone, lr=0.3, rho=0.4)
    total = [torch.zeros_like(param) for param in alone.parameters()]
    for part in cut(batch, 4):
        losses(alone, part).mean().backward()
        with optimizer.perturbed():
            losses(alone, part).mean().backward()
        for added, param in zip(total, alone.parameters(), strict=True):
            added += param.grad / 3
        optimizer.zero_grad()
    for added, param in zip(total, alone.parameters(), strict=True):
        param.grad = added
    optimizer.second_step()
    reference = make_model()
    literal_sgd(reference, literal_m_sharpness(reference, batch, 0.4, 4), 0.3)
    torch.testing.assert_close(bits(alone), bits(reference), **EXACT)


@pytest.mark.parametrize("sharpness", ["batch", "micro"])
def test_plain_steps_run_the_model_once(sharpness):
    model, calls = make_model(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    optimizer = SAM(model, lr=0.3, rho_schedule=WarmStart(1))
    sam_step(model, make_batch(), losses, optimizer, 4, sharpness=sharpness)
    assert len(calls) == 3
    sam_step(model, make_batch(), losses, optimizer, 4, sharpness=sharpness)
    assert len(calls) == 9


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_a_micro_batch_without_a_gradient_does_not_lose_the_others(silent):
    ours, theirs, batch = make_model(), make_model(), make_batch()

    def loss_fn(model, part):
        mine = torch.equal(part[0], batch[0][4 * silent : 4 * silent + 4])
        return losses(model, part) * (0 if mine else 1)

    with pytest.warns(ProbeWarning, match="has norm 0"):
        sam_step(ours, batch, loss_fn, SAM(ours, lr=0.3, rho=0.4), 4, sharpness="micro")
    parts = [literal_gradient(theirs, part, 0.4) for i, part in enumerate(cut(batch, 4)) if i != silent]
    literal_sgd(theirs, [sum(same) / 3 for same in zip(*parts, strict=True)], 0.3)
    torch.testing.assert_close(bits(ours), bits(theirs), **EXACT)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("backwards", [0, 1, 2])
def test_what_a_context_leaves_in_the_gradients(plain, backwards):
    """A second pass of two backwards adds up; without a second pass a plain step keeps the first gradient."""
    model = make_model()
    optimizer = SAM(model, rho=0.0 if plain else 0.4)
    expected = literal_gradient(model, make_batch(), 0.0 if plain else 0.4)
    losses(model, make_batch()).mean().backward()
    with optimizer.perturbed():
        for _ in range(backwards):
            losses(model, make_batch()).mean().backward()
    times = max(backwards, 1) if plain else backwards
    got = [torch.zeros_like(param) if param.grad is None else param.grad for param in model.parameters()]
    torch.testing.assert_close(got, [times * grad for grad in expected], **EXACT)
    losses(model, make_batch()).mean().backward()  # after the context gradients add up as ever
    plain_gradient = literal_gradient(model, make_batch(), 0.0)
    got = [param.grad for param in model.parameters()]
    both = [times * grad + more for grad, more in zip(expected, plain_gradient, strict=True)]
    torch.testing.assert_close(got, both, **EXACT)


@pytest.mark.parametrize("sharpness", ["batch", "micro"])
def test_one_bad_micro_batch_skips_the_step(sharpness):
    model, batch = make_model(), make_batch()
    batch[0][5] = math.nan
    optimizer, before = SAM(model, lr=0.3), bits(model)
    with pytest.warns(ProbeWarning, match="not finite"):
        sam_step(model, batch, losses, optimizer, 4, sharpness=sharpness)
    assert optimizer.skipped == 1
    assert_same_bits(bits(model), before)


def test_an_exception_inside_leaves_the_weights():
    model, calls = make_model(), []

    def failing(model, batch):
        calls.append(1)
        if len(calls) == 4:
            raise KeyError
        return losses(model, batch)

    optimizer, before = SAM(model, lr=0.3), bits(model)
    with pytest.raises(KeyError):
        sam_step(model, make_batch(), failing, optimizer, 4, sharpness="micro")
    assert_same_bits(bits(model), before)
    sam_step(model, make_batch(), losses, optimizer, 4, sharpness="micro")
    assert optimizer.steps == 1


def test_errors_of_sam_step():
    model = make_model()
    with pytest.raises(ProbeError, match="expected sharpness to be 'batch' or 'micro', got 'm'"):
        sam_step(model, make_batch(), losses, SAM(model), sharpness="m")
    with pytest.raises(ProbeError, match="expected micro_batch_size to be 1 or more, got 0"):
        sam_step(model, make_batch(), losses, SAM(model), 0)
    with pytest.raises(ProbeError, match="one real loss per sample"):
        sam_step(model, make_batch(), lambda m, b: losses(m, b).mean(), SAM(model))


# Running statistics


def normalised(kind, momentum):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), kind(6, momentum=momentum), nn.Tanh(), nn.Linear(6, 1)).double()


def unlike(kind):
    """InstanceNorm wants three dimensions."""

    class Wrapped(kind):
        def forward(self, x):
            return super().forward(x.unsqueeze(-1).expand(-1, -1, 5) * torch.arange(1, 6)).mean(-1)

    return lambda width, momentum: Wrapped(width, momentum=momentum, track_running_stats=True)


KINDS = {"batch": nn.BatchNorm1d, "instance": unlike(nn.InstanceNorm1d)}


@pytest.mark.parametrize(
    ("kind", "momentum"), [("batch", 0.1), ("batch", 0.7), ("batch", None), ("instance", 0.1), ("instance", 0.7)]
)
@pytest.mark.parametrize("interface", ["closure", "two steps", "context", "helper", "helper, micro", "keep"])
def test_running_statistics_move_once(kind, momentum, interface):
    model, once = normalised(KINDS[kind], momentum), normalised(KINDS[kind], momentum)
    given = {} if interface == "keep" else {"model": model}
    optimizer = SAM(model.parameters(), lr=0.0, rho=2.0, **given)  # lr 0: each step sees the same weights
    for step in range(3):
        batch = make_batch(step)
        once(batch[0])

        def backward(batch=batch):
            losses(model, batch).mean().backward()

        optimizer.zero_grad()
        if interface == "closure":
            optimizer.step(backward)
        elif interface == "two steps":
            backward()
            optimizer.first_step()
            backward()
            optimizer.second_step()
        elif interface == "context":
            backward()
            with optimizer.perturbed():
                backward()
            optimizer.second_step()
        elif interface == "keep":
            backward()
            optimizer.first_step()
            with keep_running_stats(model):
                backward()
            optimizer.second_step()
        else:
            sam_step(model, batch, losses, optimizer, sharpness="micro" if "micro" in interface else "batch")
    assert_same_bits(bits(model), bits(once))


def test_without_the_model_statistics_move_twice():
    """Negative control: what keep_running_stats is for."""
    model, once = normalised(nn.BatchNorm1d, 0.1), normalised(nn.BatchNorm1d, 0.1)
    once(make_batch()[0])
    SAM(model.parameters(), rho=2.0).step(lambda: losses(model, make_batch()).mean().backward())
    assert model[1].num_batches_tracked == 2
    assert (model[1].running_mean - once[1].running_mean).abs().max() > 0.01


def test_statistics_of_layers_in_eval_mode_and_after_an_exception():
    model = normalised(nn.BatchNorm1d, 0.1)
    model[1].eval()
    before = bits(model)
    with pytest.raises(KeyError), keep_running_stats(model.train()):
        model(make_batch()[0])
        raise KeyError
    assert_same_bits(bits(model), before)
    assert model[1].training
