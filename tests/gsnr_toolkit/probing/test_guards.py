"""What a probe refuses: each guard says what was expected, what came, and what to do."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gsnr_toolkit import ProbeError, estimate_cor, estimate_gsnr, probe
from gsnr_toolkit.errors import NonDeterministicError, NonFiniteError
from gsnr_toolkit.inputs.losses import inferred_loss
from tests.support.front_door import make_loader, mlp, two_classes


def _raises(error, message, model=None, loader=None, call=estimate_cor, **options):
    with pytest.raises(error, match=message):
        call(model or mlp(), make_loader() if loader is None else loader, progress=False, **options)


def test_guard_batchnorm_in_train_mode():
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    _raises(ProbeError, r"train mode \('1'.*model.eval\(\)", model)
    assert estimate_gsnr(model.eval(), make_loader(), progress=False).total["num_samples"] == 96


def test_guard_empty_and_used_up_loaders():
    _raises(ProbeError, "got none; check the data set's length", loader=[])
    used = iter(make_loader())
    list(used)
    _raises(ProbeError, "exhausted: pass the DataLoader itself", loader=used)


def test_guard_too_few_samples():
    _raises(ProbeError, r"at least 4 samples.*got 3", loader=make_loader(3), call=estimate_gsnr)
    _raises(ProbeError, r"at least 4 mini-batches.*got 2 of 48", batch_size=48)


def test_four_samples_are_enough():
    inputs, _ = two_classes(4)
    report = estimate_cor(mlp(), [(inputs, torch.tensor([0, 1, 0, 1]))], progress=False)
    assert report.total["num_samples"] == 4
    assert report.settings["batch_size"] == 1


def test_guard_one_class():
    inputs, _ = two_classes()
    one = [(inputs, torch.ones(96, dtype=torch.long))]
    _raises(ProbeError, r"at least two classes, got class 1 for all 96", loader=one)
    report = estimate_gsnr(mlp(), one, loss_fn=inferred_loss_as_own, progress=False)
    assert report.total["num_samples"] == 96


def inferred_loss_as_own(model, batch):
    return inferred_loss(model, batch)


def test_guard_non_finite_loss_names_sample_and_batch():
    inputs, labels = two_classes()
    inputs[30, 0] = float("nan")
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=12)
    _raises(NonFiniteError, "nan for sample 6 of batch 2", loader=loader, call=estimate_gsnr, engine="vmap")


def test_guard_non_finite_gradient_names_the_parameter():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 1), nn.Linear(6, 1)

        def forward(self, x):
            hidden = self.second(x)
            return self.first(x) + torch.where(hidden.isnan(), hidden, (hidden * 0).sqrt())

    _raises(NonFiniteError, r"first in 'second.weight' for batch 0", Root().double(), call=estimate_gsnr)


def test_guard_non_determinism():
    class Counting(nn.Linear):
        count = 0

        def forward(self, x):
            Counting.count += 1
            return super().forward(x) + 0.1 * Counting.count

    _raises(NonDeterministicError, "same losses for the same batch", Counting(6, 1).double())


def test_guard_a_loss_that_mixes_samples():
    def contrastive(model, batch):
        return model(batch[0]).squeeze(1) - model(batch[0]).mean()

    _raises(ProbeError, "does not depend on the rest of the batch", loss_fn=contrastive)


def test_guard_a_scalar_loss():
    _raises(ProbeError, r"reduction='none'", loss_fn=lambda model, batch: inferred_loss(model, batch).mean())


def test_guard_devices():
    _raises(ProbeError, "parameters on cpu and the batch on meta", loader=[tuple(t.to("meta") for t in two_classes())])


def test_guard_a_loss_that_trains_the_model():
    def training(model, batch):
        model[0].bias.data.add_(1e-3)
        return inferred_loss(model, batch)

    with pytest.raises((ProbeError, NonDeterministicError)):
        estimate_gsnr(mlp(), make_loader(), loss_fn=training, progress=False)


def test_guard_options():
    _raises(ProbeError, "rho to be a positive radius.*got -1", rho=-1)
    _raises(ProbeError, "radii to be two or more positive, increasing.*1.0, 0.5", radii=[1.0, 0.5])
    _raises(ProbeError, "layerwise to be one of 'parameters', 'readout', got 'blocks'", layerwise="blocks")
    _raises(ProbeError, "perturb to be one of", perturb="some")
    _raises(ProbeError, "confidence to be between 0 and 1", confidence=95)
    _raises(ProbeError, "engine to be one of 'auto'", engine="gpu")
    _raises(ProbeError, "refine to be a whole number from 0 up to 5", refine=9)
    _raises(ProbeError, "max_samples to be a whole number from 1", max_samples=0)


def test_a_diverging_run_says_so():
    with pytest.raises(NonFiniteError, match="lower the learning rate"):
        probe(
            nn.Linear(6, 1).double(),
            make_loader(),
            optimizer=lambda params: torch.optim.SGD(params, lr=1e308),
            steps=10,
            measurements=1,
            progress=False,
        )
