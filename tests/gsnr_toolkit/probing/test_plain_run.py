import pytest
import torch
from torch import nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.probing.plain_run import PlainRun, measured_steps


def _batch(n=8):
    inputs = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs[:, 0] > 0).long()


def test_steps_are_denser_early():
    assert measured_steps(40, 3) == [0, 10, 40]
    assert measured_steps(40, 1) == [40]
    with pytest.raises(ProbeError, match="got -1 and 3"):
        measured_steps(-1, 3)


def test_it_trains_under_no_grad_and_leaves_no_gradient():
    model = nn.Linear(3, 1)
    before = model.weight.detach().clone()
    with torch.no_grad():
        PlainRun(model, [_batch()], None, lr=0.1).advance_to(2)
        assert not torch.is_grad_enabled()
    assert not torch.equal(model.weight, before)
    assert model.weight.grad is None


def test_a_model_on_another_device_is_refused_before_any_step():
    with pytest.raises(ProbeError, match=r"model on meta.*parameters on cpu; move the model with model.to\('meta'\)"):
        PlainRun(nn.Linear(3, 1), [_batch()], None, lr=0.1, device="meta")
    assert PlainRun(nn.Linear(3, 1), [_batch()], None, lr=0.1, device="cpu").device == torch.device("cpu")


def test_an_unknown_device_is_refused():
    with pytest.raises(ProbeError, match="device of this machine, got 'foo'"):
        PlainRun(nn.Linear(3, 1), [_batch()], None, lr=0.1, device="foo")


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_learning_rates(lr):
    with pytest.raises(ProbeError, match="positive learning rate"):
        PlainRun(nn.Linear(3, 1), [_batch()], None, lr=lr)


def test_a_frozen_model_cannot_be_trained():
    with pytest.raises(ProbeError, match="at least one trainable parameter"):
        PlainRun(nn.Linear(3, 1).requires_grad_(False), [_batch()], None, lr=0.1)
