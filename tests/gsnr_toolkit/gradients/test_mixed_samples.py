"""Samples that influence one another are found in every disguise."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit.errors import MixedSamplesError
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.moments.by_parameter import Moments
from tests.support.tapped import Net, gradients, make_task, six_rows, square_loss


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 6).double(), nn.Linear(6, 3).double()

    def forward(self, x):
        hidden = self.inner(x)
        return self.outer(hidden - hidden.mean(0))


MIXING = {
    "a mean over the batch": (Centred, square_loss),
    "batch normalisation in train mode": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double().train(),
        square_loss,
    ),
    "a contrastive loss": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double(),
        lambda model, batch: -(model(batch[0]) @ model(batch[0]).t()).log_softmax(1).diagonal(),
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_mixed_samples_are_refused(name):
    make, loss = MIXING[name]
    task = make_task(make(), loss)
    rows = (torch.randn(8, 4).double(),)
    for form in (lambda: TapsEngine().accumulate(task, rows, Moments(), chunk_size=8), lambda: gradients(task, rows)):
        with pytest.raises(MixedSamplesError, match=r"depends on that sample alone.*for 3 samples; batch statistics"):
            form()


def _contrastive(model, batch):
    z = F.normalize(model(batch[0]), dim=1)
    return F.cross_entropy(5 * z @ z.t(), torch.arange(len(z)), reduction="none")


def _batch_norm(net, x):
    return net.c(net.drop(F.batch_norm(net.a(x), None, None, training=True)))


NOISY_MIXING = {
    "contrastive": (lambda net, x: net.c(net.drop(torch.tanh(net.a(x)))), _contrastive),
    "batch mean of the outputs": (lambda net, x: (lambda o: o - o.mean(0))(net.c(net.drop(net.a(x)))), None),
    "batch mean inside": (lambda net, x: net.c(net.drop(net.a(x) - net.a(x).mean(0))), None),
    "batch statistics": (_batch_norm, None),
}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", NOISY_MIXING)
def test_mixed_samples_are_found_with_dropout_on(name, check):
    forward, loss_fn = NOISY_MIXING[name]
    model = Net(forward, a=nn.Linear(6, 6), c=nn.Linear(6, 3), drop=nn.Dropout(0.2)).double()
    with pytest.raises(MixedSamplesError, match="row i needs sample i only"):
        gradients(make_task(model, loss_fn), six_rows(), TapsEngine(check=check))


def test_a_branch_on_the_batch_is_found():
    model = Net(lambda net, x: net.a(x) if x.sum() > 0 else 2 * net.a(x), a=nn.Linear(6, 3)).double()
    inputs, labels = six_rows()
    batch = (inputs.abs() * torch.tensor([1.0, -0.1, 1, 1, 1, 1]).unsqueeze(1), labels)
    with pytest.raises(MixedSamplesError, match=r"for sample 1 in a batch of 3 and .* alone.*branches"):
        gradients(make_task(model, None), batch)
