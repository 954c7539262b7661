"""What a probe takes from loaders: the same samples at every step, and nothing of their state."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from gsnr_toolkit import estimate_cor, probe
from gsnr_toolkit.inputs.losses import inferred_loss


def _dataset(n=64):
    inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, (inputs[:, 0] + inputs[:, 1].abs() > 0.5).long())


class _ByEpoch(Sampler):
    """Other samples at every pass, as samplers do that count their epochs or own a generator."""

    def __init__(self):
        self.epoch = 0
        self.own = np.random.default_rng(7)

    def __iter__(self):
        self.epoch += 1
        return iter((self.own.permutation(64)[:32] + self.epoch) % 64)

    def __len__(self):
        return 32


class _Augmented(Dataset):
    """Every look at an item is another one: augmentation from a generator of the data set's own."""

    def __init__(self):
        self.inner, self.own = _dataset(), np.random.default_rng(3)

    def __getitem__(self, index):
        inputs, label = self.inner[index]
        return inputs + 0.5 * float(self.own.normal()), label

    def __len__(self):
        return len(self.inner)


class _WithoutLength:
    """Iterable, but ``len`` raises: the form of a streaming loader."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        raise TypeError("this loader has no length")


def test_every_step_is_measured_on_the_same_samples():
    sampler = _ByEpoch()
    loader = DataLoader(_dataset(), batch_size=4, sampler=sampler)
    train = [tuple(_dataset()[:32])]
    frozen = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.0)}
    report = probe(nn.Linear(4, 1), loader, train_loader=train, steps=4, measurements=3, progress=False, **frozen)
    assert report.trajectory["loss"].nunique() == 1
    assert report.totals["gsnr"].nunique() == 1
    assert report.totals["num_samples"].tolist() == [32, 32, 32]
    assert sampler.epoch == 0
    assert np.array_equal(sampler.own.permutation(5), np.random.default_rng(7).permutation(5))


def test_augmented_samples_are_drawn_once():
    loader = DataLoader(_Augmented(), batch_size=4)
    still = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.0)}
    report = probe(nn.Linear(4, 1), loader, steps=2, measurements=2, progress=False, **still)
    assert report.trajectory["loss"].nunique() == 1
    assert report.totals["cor"].nunique() == 1


def test_the_first_step_measures_what_a_single_measurement_does():
    loader = DataLoader(_dataset(), batch_size=4, sampler=_ByEpoch())
    model = nn.Linear(4, 1)
    alone = estimate_cor(model, loader, progress=False)
    along = probe(model, loader, steps=2, measurements=2, progress=False)
    assert along.totals["gsnr"].iloc[0] == alone.total["gsnr"]


def test_training_starts_with_the_first_batches_also_when_it_shares_the_loader():
    """Drawing the probe's samples does not count as a pass: the run is the same as one without a probe."""
    sampler, seen = _ByEpoch(), []
    loader = DataLoader(_dataset(), batch_size=4, sampler=sampler)

    def watching(model, batch):
        if model.training and torch.is_grad_enabled() and model.weight.requires_grad and len(batch[1]) == 4:
            seen.append(batch[0].clone())
        return inferred_loss(model, batch)

    probe(nn.Linear(4, 1), loader, loss_fn=watching, steps=1, measurements=1, engine="vmap", progress=False)
    torch.testing.assert_close(seen[0], next(iter(loader))[0])


def test_the_name_of_the_data_and_max_samples():
    loader = DataLoader(_dataset(), batch_size=4)
    report = probe(nn.Linear(4, 1), loader, steps=0, max_samples=30, progress=False)
    assert report.settings["data"] == "TensorDataset"
    assert report.total["num_samples"] == 30


def test_loaders_without_a_length():
    batches = list(DataLoader(_dataset(), batch_size=4))
    report = probe(
        nn.Linear(4, 1), batches, train_loader=_WithoutLength(batches), steps=2, measurements=2, progress=False
    )
    assert report.totals["step"].tolist() == [0, 2]
