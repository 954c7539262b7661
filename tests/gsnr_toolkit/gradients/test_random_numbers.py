"""Dropout and drop path: the masks of the forward, the expectation of the loop, and an unchanged random state."""

import torch
from torch import nn

from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.taps.forward import run_forward
from gsnr_toolkit.moments.by_parameter import Moments
from tests.support.tapped import ROWS, Net, assert_right, assert_same, gradients, make_task, six_rows, tapped


def _dropping(p=0.3):
    def forward(net, x):
        h = net.drop(torch.tanh(net.a(x)))
        keep = (torch.rand(len(h), 1, dtype=h.dtype) < 0.7).to(h) / 0.7 if net.training else 1  # drops whole branches
        return net.c(h + keep * net.drop(torch.relu(net.b(h))))

    return Net(forward, a=nn.Linear(6, 5), b=nn.Linear(5, 5), c=nn.Linear(5, 3), drop=nn.Dropout(p)).double()


def test_dropout_gradients_belong_to_the_masks_of_the_forward():
    model, batch = _dropping(), six_rows()
    task = make_task(model, None)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        engine = TapsEngine()
        engine.prepare(task, batch)  # consumes no random numbers
        grads = gradients(task, batch, engine, chunk_size=ROWS)
    torch.manual_seed(5)
    forward = run_forward(task, batch)
    for i, loss in enumerate(forward.losses):
        expected = torch.autograd.grad(loss, list(forward.leaves.values()), retain_graph=True)
        for name, grad in zip(forward.leaves, expected, strict=True):
            torch.testing.assert_close(grads[name][i], grad, rtol=1e-10, atol=1e-12)
    assert engine.other() == {}


def test_dropout_gradients_have_the_same_expectation_in_taps_and_loop():
    repeats, (inputs, labels) = 300, six_rows()
    batch = (inputs[:2].repeat(repeats, 1), labels[:2].repeat(repeats))
    model = _dropping()
    taps = gradients(make_task(model, None), batch, chunk_size=100)
    loop = gradients(make_task(model, None), batch, loop_gradients)
    scores = []
    for name in taps:
        found, expected = (g[name].unflatten(0, (repeats, 2)) for g in (taps, loop))
        error = ((found.var(0) + expected.var(0)) / repeats).sqrt()
        assert bool((found.var(0) > 0).any())
        gap = found.mean(0) - expected.mean(0)
        scores.append((gap[error > 0] / error[error > 0]).flatten())
    scores = torch.cat(scores)
    assert float(scores.abs().max()) < 4.5  # 186 entries of standard normal size
    assert 0.7 < float(scores.square().mean()) < 1.3


def test_eval_mode_drops_nothing():
    assert_right(_dropping().eval(), six_rows())


def test_drop_path_of_a_small_branch_is_compared_under_the_same_masks():
    import timm

    model = timm.create_model(
        "convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=1, drop_path_rate=0.5
    ).train()
    engine = TapsEngine()
    engine.prepare(make_task(model, None), (torch.randn(ROWS, 3, 32, 32), torch.tensor([0, 1, 1, 0, 1, 0])))
    assert engine.other() == {}


def test_the_random_state_is_left_unchanged():
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)).double().train()
    task, batch, engine = make_task(model), (torch.randn(6, 4).double(),), TapsEngine()
    torch.manual_seed(7)
    grads = tapped(task, batch, engine)  # includes planning and the check
    torch.manual_seed(7)
    again = tapped(task, batch, engine)
    assert_same(again, grads)
    torch.manual_seed(7)
    forward = run_forward(task, batch)
    for i in range(6):
        rows = torch.autograd.grad(forward.losses[i], list(forward.leaves.values()), retain_graph=True)
        for name, grad in zip(forward.leaves, rows, strict=True):
            torch.testing.assert_close(grads[name][i], grad)
    assert engine.other() == {}


def test_a_plan_made_during_accumulation_handles_dropout():
    """Accumulation runs without a graph, but the check compares under the batch's own masks and needs one."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)).double().train()
    task, batch = make_task(model), (torch.randn(6, 4).double(),)
    formed, summed, moments = TapsEngine(), TapsEngine(), Moments()
    torch.manual_seed(7)
    grads = tapped(task, batch, formed)
    torch.manual_seed(7)
    summed.accumulate(task, batch, moments, chunk_size=6)
    assert summed.other() == {}
    for name, grad in grads.items():
        torch.testing.assert_close(moments.mean[name], grad.mean(0))
