"""Measuring in the middle of a loop changes nothing of the loop, for every kind of loader and mode."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler

from gsnr_toolkit import AutoRho, Recorder, estimate_cor, estimate_gsnr, iter_probe
from gsnr_toolkit.errors import ProbeError, ProbeWarning
from gsnr_toolkit.inputs import loaders
from gsnr_toolkit.inputs.loaders import draw_batches
from gsnr_toolkit.training.evaluate import evaluate


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


class Resumed(IterableDataset):
    """Goes on from where the last loop stopped, as resumable streams do."""

    def __init__(self, end=32):
        self.rows, self.place, self.history, self.end = Rows(), 0, [], end

    def __iter__(self):
        for _ in range(self.end):
            self.place = (self.place + 1) % 32
            self.history.append(self.place)
            yield self.rows[self.place]


class OwnReset(IterableDataset):
    """Its own iterator, which iter() sets back."""

    def __iter__(self):
        self.rows, self.index = Rows(), iter(range(32))
        return self

    def __next__(self):
        return self.rows[next(self.index)]


class InPlace(Sampler):
    """Shuffles one array in place by a fixed rule, and counts, in attributes of no known name."""

    def __init__(self, kind=np.arange):
        self.order, self.turns = kind(32), [0]

    def __iter__(self):
        self.turns[0] += 1
        for place, index in enumerate([*map(int, self.order)]):
            self.order[place] = (index * 5 + self.turns[0]) % 32
        for place in range(32):
            yield int(self.order[place])

    def __len__(self):
        return 32


class Shared(Sampler):
    """All loops take from one iterator."""

    def __init__(self, end=320):
        self.source = iter(i % 32 for i in range(end))

    def __iter__(self):
        return itertools.islice(self.source, 32)

    def __len__(self):
        return 32


class SharedInClosure:
    def __init__(self):
        source = iter(DataLoader(Rows(), 4, collate_fn=collate))
        type(self).__iter__ = lambda self: source


class Stateful(DataLoader):
    """Notes its latest iterator and position, for checkpoints in the middle of an epoch."""

    _state = None

    def __iter__(self):
        if "latest" not in vars(self):
            self.latest, self.position = [], {"batches": 0, "epochs": 0}
        self.latest.append(super().__iter__())
        self.last = self.latest[-1]
        for batch in self.last:
            self.position["batches"] += 1
            yield batch
        self.position["epochs"] += 1

    def state_dict(self):
        return {**self.position, "iterators": len(self.latest)}


class Wrapper:
    """Moves batches of an inner loader, as wrappers of trainers do; counts what it gave."""

    def __init__(self, inner):
        self.inner, self.given = inner, 0

    def __iter__(self):
        for batch in self.inner:
            self.given += 1
            yield batch


def accelerated():
    from accelerate.data_loader import prepare_data_loader

    return prepare_data_loader(DataLoader(Rows(), 4, shuffle=True, collate_fn=collate), put_on_device=False)


def combined():
    from lightning.pytorch.utilities import CombinedLoader

    loader = CombinedLoader([DataLoader(Rows(), 4, shuffle=True, collate_fn=collate)], "sequential")
    return Wrapper(Unpacked(loader))


class Unpacked:
    """Drops the numbers that a CombinedLoader gives beside its batches."""

    def __init__(self, inner):
        self.inner = inner

    def __iter__(self):
        for batch, _, _ in self.inner:
            yield batch


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
    "resumed": lambda: DataLoader(Resumed(), 4),
    "endless": lambda: DataLoader(Resumed(10**9), 4),
    "iterator that is reset": lambda: DataLoader(OwnReset(), 4),
    "sampler with an array": lambda: DataLoader(Rows(), 4, sampler=InPlace()),
    "sampler with a tensor": lambda: DataLoader(Rows(), 4, sampler=InPlace(torch.arange)),
    "sampler with a list": lambda: DataLoader(Rows(), 4, sampler=InPlace(lambda n: list(range(n)))),
    "with a state_dict": lambda: Stateful(Rows(), 4, shuffle=True, collate_fn=collate),
    "wrapper": lambda: Wrapper(DataLoader(Rows(), 4, shuffle=True, collate_fn=collate)),
    "accelerate": accelerated,
    "lightning": combined,
    "workers": lambda: DataLoader(Rows(), 4, shuffle=True, num_workers=1),
    "persistent workers": lambda: DataLoader(Rows(), 4, shuffle=True, num_workers=1, persistent_workers=True),
}
MEASURES = {
    "none": lambda model, loader: None,
    "estimate": lambda model, loader: estimate_gsnr(model, loader, loss_fn=loss_fn, progress=False, max_samples=12),
    "recorder": lambda model, loader: Recorder(model, loader, loss_fn, cor=False, max_samples=12)(0),
    "estimate_cor": lambda model, loader: estimate_cor(
        model, loader, loss_fn=loss_fn, progress=False, max_samples=16, batch_size=2, radii=[0.1, 0.2]
    ),
    "AutoRho": lambda model, loader: AutoRho(
        model, loader, loss_fn, max_samples=16, batch_size=2, radii=[0.1, 0.2], eval_mode=False
    ).radius(0),
    "probe": lambda model, loader: list(
        iter_probe(
            model, loader, loss_fn=loss_fn, steps=2, measurements=1, max_samples=16, batch_size=2, progress=False
        )
    ),
}
SHARED = {
    "shared by a sampler": lambda: DataLoader(Rows(), 4, sampler=Shared(), collate_fn=collate),
    "iterator as sampler": lambda: DataLoader(Rows(), 4, sampler=iter(range(32)), collate_fn=collate),
    "shared by closure": SharedInClosure,
    "wrapper of a shared one": lambda: Wrapper(iter(DataLoader(Rows(), 4, collate_fn=collate))),
}


def run(kind, mode, measure):
    """Literal training loop of two epochs, measured at step 2 if at all."""
    torch.manual_seed(1)
    loader = (KINDS | SHARED)[kind]()
    if type(loader) is DataLoader:
        loader.collate_fn = collate
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.Linear(6, 2)).train(mode != "eval")
    if mode == "mixed":
        model[1].eval()
    optimizer, seen = torch.optim.SGD(model.parameters(), 0.1), []
    for _ in range(2):
        for step, batch in enumerate(itertools.islice(loader, 20)):
            if step == 2 and kind in SHARED and measure != "none":
                with pytest.raises(ProbeError, match=r"starts anew by iter.*pass a list of batches"):
                    MEASURES[measure](model, loader)
            elif step == 2:
                MEASURES[measure](model, loader)
            loss = loss_fn(model, batch).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append((batch[2], loss.item(), [module.training for module in model.modules()]))
    if hasattr(loader, "state_dict") and kind == "with a state_dict":
        seen.append(loader.state_dict())
    return seen, [param.tolist() for param in model.parameters()], torch.rand(1).item()


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
@pytest.mark.parametrize("kind", ["plain", "shuffled", "own generator", "shared generator"])
def test_measuring_inside_the_loop_changes_no_bit_of_it(kind, mode):
    literal = run(kind, mode, "none")
    assert len(literal[0]) == 16
    assert run(kind, mode, "estimate") == literal
    assert run(kind, mode, "recorder") == literal


MORE = [kind for kind in KINDS if "workers" not in kind]


@pytest.mark.parametrize("kind", [*MORE, *SHARED])
def test_every_kind_of_loader_goes_on_as_if_nothing_was_measured(kind):
    literal = run(kind, "train", "none")
    assert len(literal[0]) >= 4
    for measure in MEASURES:
        if not (kind == "endless" and measure == "probe"):
            assert run(kind, "train", measure) == literal, measure


@pytest.mark.parametrize("kind", ["workers", "persistent workers"])
def test_measuring_inside_a_loop_over_workers_changes_no_bit_of_it(kind):
    literal = run(kind, "train", "none")
    for measure in ("recorder", "AutoRho"):
        assert run(kind, "train", measure) == literal


def test_a_wrapper_of_persistent_workers_goes_on():
    inner = DataLoader(Rows(), 4, num_workers=1, persistent_workers=True, collate_fn=collate)
    loader, seen = Wrapper(inner), []
    for step, batch in enumerate(loader):
        if step == 2:
            estimate_gsnr(nn.Linear(4, 2), loader, loss_fn=loss_fn, progress=False)
        seen += batch[2]
    assert (seen, loader.given) == (list(range(32)), 8)


def test_evaluating_in_the_loop_leaves_it_alone():
    loader, seen = DataLoader(Resumed(), 4, collate_fn=lambda rows: collate(rows)[:2]), []
    for step, batch in enumerate(loader):
        if step == 2:
            evaluate(nn.Linear(4, 1), loader)
        seen.append(batch[0])
    assert (len(seen), loader.dataset.place, len(loader.dataset.history)) == (8, 0, 32)


class Cached(Rows):
    """Renders a sample on first use."""

    def __init__(self):
        super().__init__()
        self.cache = {}

    def __getitem__(self, index):
        if index not in self.cache:
            self.cache[index] = super().__getitem__(index)
        return self.cache[index]


def test_what_a_data_set_cached_while_it_was_measured_stays():
    dataset = Cached()
    estimate_gsnr(nn.Linear(4, 2), DataLoader(dataset, 4, collate_fn=collate), loss_fn=loss_fn, progress=False)
    assert len(dataset.cache) == 32


class Iterator:
    def __init__(self):
        self.inner = iter([collate([Rows()[i] for i in range(k, k + 8)]) for k in (0, 8, 16, 24)])

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.inner)


@pytest.mark.parametrize("make", [Iterator, lambda: iter(Iterator()), lambda: (batch for batch in Iterator())])
def test_an_iterator_given_to_an_estimate_is_consumed_and_elsewhere_refused(make):
    stream, model = make(), nn.Linear(4, 2)
    for refused in (lambda: Recorder(model, stream, loss_fn), lambda: AutoRho(model, stream, loss_fn)):
        with pytest.raises(ProbeError, match=r"an iterator that goes on from where it is.*pass a list of batches"):
            refused()
    estimate_gsnr(model, stream, loss_fn=loss_fn, progress=False, max_samples=16)
    assert [batch[2][0] for batch in stream] == [16, 24]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_generated_loaders_go_on(data):
    check_generated(data, workers=0)


@settings(max_examples=2, deadline=None)
@given(data=st.data())
def test_generated_loaders_over_workers_go_on(data):
    check_generated(data, workers=1)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_many_generated_loaders_go_on(data):
    check_generated(data, workers=0)


def check_generated(data, workers):
    """Two epochs of a generated loader, measured in between by generated means, have the batches of a literal loop."""
    size, stop = data.draw(st.integers(1, 7)), data.draw(st.integers(0, 3))
    source = data.draw(st.sampled_from(["rows", "resumed", "reset"]))
    order = data.draw(st.sampled_from(["plain", "shuffle", "own", "in place"])) if source == "rows" else "plain"
    wraps, persistent = data.draw(st.integers(0, 2)), bool(workers) and data.draw(st.booleans())
    measure = data.draw(st.sampled_from(["none", "estimate", "recorder", "AutoRho"]))
    drop_last = data.draw(st.booleans())

    def epochs(measured):
        torch.manual_seed(size)
        dataset = {"rows": Rows, "resumed": Resumed, "reset": OwnReset}[source]()
        how = {"shuffle": {"shuffle": True}, "own": {"shuffle": True, "generator": seeded()}}.get(order, {})
        how |= {"sampler": InPlace()} if order == "in place" else {}
        loader = DataLoader(
            dataset,
            size,
            drop_last=drop_last,
            num_workers=workers,
            persistent_workers=persistent,
            collate_fn=collate,
            **how,
        )
        for _ in range(wraps):
            loader = Wrapper(loader)
        model, seen = nn.Linear(4, 2), []
        for _ in range(2):
            for step, batch in enumerate(loader):
                if step == stop:
                    MEASURES[measured](model, loader)
                seen.append((batch[2], batch[0].tolist()))
        return seen, torch.rand(1).item()

    assert epochs(measure) == epochs("none")


def test_a_loader_without_a_length_gives_a_word():
    batches = itertools.repeat((torch.zeros(4000, 1), torch.zeros(4000)))
    with pytest.warns(ProbeWarning, match="max_samples"):
        list(itertools.islice(draw_batches(batches, None), 4))


class Endless:
    def __iter__(self):
        while True:
            yield torch.randn(50, 4), torch.randint(0, 2, (50,))


@pytest.mark.filterwarnings("ignore:.*may never end")
def test_what_is_kept_of_an_endless_loader_is_bounded(monkeypatch):
    monkeypatch.setattr(loaders, "_MOST", 500)
    for keep in (lambda: Recorder(nn.Linear(4, 2), Endless())(0), lambda: estimate_cor(nn.Linear(4, 2), Endless())):
        with pytest.raises(ProbeError, match=r"got 500 samples from Endless.*pass max_samples"):
            keep()


def test_a_cut_batch_does_not_keep_its_uncut_memory():
    whole = torch.randn(100_000, 4)
    kept = [*draw_batches([(whole, torch.zeros(100_000))], 8)]
    assert torch.equal(kept[0][0], whole[:8])
    assert kept[0][0].untyped_storage().nbytes() == 8 * 4 * 4
