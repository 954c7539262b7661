"""Measuring in the middle of a loop changes nothing of the loop, for every kind of loader and mode."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from gsnr_toolkit import Recorder, estimate_gsnr
from gsnr_toolkit.errors import ProbeWarning
from gsnr_toolkit.inputs.loaders import draw_batches


class Rows(Dataset):
    """Rows with noise from a generator of the data set's own, as augmentations have."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return 32

    def __getitem__(self, index):
        row = torch.arange(4.0) * (index + 1) / 32 + 0.1 * float(self.rng.standard_normal())
        return row, index % 2, index


def collate(rows):
    inputs, labels, index = zip(*rows, strict=True)
    return torch.stack(inputs), torch.tensor(labels), list(index)


def loss_fn(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def seeded():
    return torch.Generator().manual_seed(3)


KINDS = {
    "plain": lambda: DataLoader(Rows(), 4),
    "shuffled": lambda: DataLoader(Rows(), 4, shuffle=True),
    "own generator": lambda: DataLoader(Rows(), 4, shuffle=True, generator=seeded()),
    "shared generator": lambda: DataLoader(
        Rows(),
        4,
        sampler=RandomSampler(Rows(), replacement=True, num_samples=32, generator=(g := seeded())),
        generator=g,
    ),
    "workers": lambda: DataLoader(Rows(), 4, shuffle=True, num_workers=1),
    "persistent workers": lambda: DataLoader(Rows(), 4, shuffle=True, num_workers=1, persistent_workers=True),
}
MEASURES = {
    "none": lambda model, loader: None,
    "estimate": lambda model, loader: estimate_gsnr(model, loader, loss_fn=loss_fn, progress=False, max_samples=12),
    "recorder": lambda model, loader: Recorder(model, loader, loss_fn, cor=False, max_samples=12)(0),
}


def run(kind, mode, measure):
    """Literal training loop of two epochs, measured at step 2 if at all."""
    torch.manual_seed(1)
    loader = KINDS[kind]()
    loader.collate_fn = collate
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.Linear(6, 2)).train(mode != "eval")
    if mode == "mixed":
        model[1].eval()
    optimizer, seen = torch.optim.SGD(model.parameters(), 0.1), []
    for _ in range(2):
        for step, batch in enumerate(itertools.islice(loader, 20)):
            if step == 2:
                MEASURES[measure](model, loader)
            loss = loss_fn(model, batch).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append((batch[2], loss.item(), [module.training for module in model.modules()]))
    return seen, [param.tolist() for param in model.parameters()], torch.rand(1).item()


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "workers" not in kind])
def test_measuring_inside_the_loop_changes_no_bit_of_it(kind, mode):
    literal = run(kind, mode, "none")
    assert len(literal[0]) == 16
    assert run(kind, mode, "estimate") == literal
    assert run(kind, mode, "recorder") == literal


@pytest.mark.parametrize("kind", ["workers", "persistent workers"])
def test_measuring_inside_a_loop_over_workers_changes_no_bit_of_it(kind):
    assert run(kind, "train", "recorder") == run(kind, "train", "none")


def test_a_loader_without_a_length_gives_a_word():
    batches = itertools.repeat((torch.zeros(4000, 1), torch.zeros(4000)))
    with pytest.warns(ProbeWarning, match="max_samples"):
        list(itertools.islice(draw_batches(batches, None), 4))
