import math

import pytest
import torch
from torch import nn

from gsnr_toolkit.optim.rho import WarmStart
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.training.loop import Callback, train


def _batches(count=6):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 8, 3, generator=generator)
    return [(x, (x[:, 0] > 0).long()) for x in inputs]


def _model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def _double(batches):
    return [(x.double(), y) for x, y in batches]


def test_it_is_sam_written_out_by_hand():
    model, other = _model(), _model()
    batches = _double(_batches())
    train(model, SAM(model, torch.optim.SGD, lr=0.1, rho=0.2), iter(batches), steps=6)
    params = list(other.parameters())
    for x, y in batches:
        loss = lambda: nn.functional.binary_cross_entropy_with_logits(other(x)[:, 0], y.double())  # noqa: B023, E731
        grads = torch.autograd.grad(loss(), params)
        norm = torch.sqrt(sum((grad**2).sum() for grad in grads))
        with torch.no_grad():
            for param, grad in zip(params, grads, strict=True):
                param += 0.2 * grad / norm
        ascended = torch.autograd.grad(loss(), params)
        with torch.no_grad():
            for param, grad, at_top in zip(params, grads, ascended, strict=True):
                param -= 0.2 * grad / norm + 0.1 * at_top
    for param, expected in zip(model.parameters(), params, strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-12, atol=1e-14)


class _Log(Callback):
    def __init__(self, stop=None):
        self.before, self.logs, self.stop = [], [], stop

    def before_step(self, step):
        self.before.append(step)

    def after_step(self, log):
        self.logs.append(log)
        return log.step == self.stop


def test_callbacks_see_every_step_with_its_radius_and_rate():
    model, log = _model(), _Log()
    optimizer = SAM(model, torch.optim.SGD, lr=1.0, rho=0.5, rho_schedule=WarmStart(2))
    rates = [0.1, 0.2, 0.3, 0.4]
    done = train(model, optimizer, iter(_double(_batches())), steps=4, learning_rate=rates.__getitem__, callbacks=[log])
    assert done == 4
    assert log.before == [0, 1, 2, 3]
    assert [entry.rho for entry in log.logs] == [0.0, 0.0, 0.5, 0.5]
    assert [entry.lr for entry in log.logs] == rates
    first = nn.functional.binary_cross_entropy_with_logits(
        _model()(_batches()[0][0].double())[:, 0], _batches()[0][1].double()
    )
    assert log.logs[0].loss == pytest.approx(first.item(), rel=1e-6)


def test_a_callback_ends_the_run():
    model = _model()
    assert train(model, SAM(model, lr=0.1, rho=0.0), iter(_double(_batches())), steps=6, callbacks=[_Log(stop=2)]) == 3


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_weights():
    model = _model()
    batches = _double(_batches())
    batches[1] = (batches[1][0] * math.nan, batches[1][1])
    log = _Log()
    with pytest.warns(UserWarning, match="not finite"):
        assert train(model, SAM(model, lr=0.1, rho=0.1), iter(batches), steps=6, callbacks=[log]) == 2
    assert math.isnan(log.logs[-1].loss)
    assert all(torch.isfinite(param).all() for param in model.parameters())
