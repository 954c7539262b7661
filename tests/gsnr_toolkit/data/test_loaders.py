import itertools

import numpy as np
import pytest
import torch

from gsnr_toolkit.data.base import DataError, probe_indices
from gsnr_toolkit.data.loaders import BalancedBatches, endless, probe_loader, train_loader
from gsnr_toolkit.data.own import in_memory


@pytest.fixture
def data():
    """12 real and 30 fake images; the first pixel is the row number."""
    labels = [0] * 12 + [1] * 30
    images = np.zeros((42, 4, 4, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(42)
    return in_memory(images, labels, image_size=4, mean=(0, 0, 0), std=(1, 1, 1))


def rows(images):
    return (images[:, 0, 0, 0] * 255).round().int().tolist()


def test_a_probe_gives_the_same_items_at_every_pass(data):
    loader = probe_loader(data, 20, batch_size=6, seed=1)
    first, second = ([(rows(x), y.tolist()) for x, y in loader] for _ in range(2))
    assert first == second
    assert [row for seen, _ in first for row in seen] == probe_indices(data.records, 20, 1) == loader.dataset.indices


def test_loaders_leave_the_global_random_state_alone(data):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(probe_loader(data, 8))
    list(train_loader(data, 8))
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


def test_training_batches_are_balanced_and_an_epoch_shows_the_smaller_class_once(data):
    batches = [(rows(x), y) for x, y in train_loader(data, batch_size=8)]
    assert [int(y.sum()) for _, y in batches] == [4, 4, 4]
    seen = [row for seen, _ in batches for row in seen]
    assert sorted(row for row in seen if row < 12) == list(range(12))
    assert len(set(seen)) == 24


def test_epochs_differ_and_two_loaders_agree_epoch_by_epoch(data):
    first, second = (train_loader(data, 8, seed=5) for _ in range(2))
    epochs = [[rows(x) for x, _ in loader] for loader in (first, second, first, second)]
    assert epochs[0] == epochs[1] != epochs[2] == epochs[3]


def test_a_resumed_run_continues_with_its_epoch(data):
    loader, resumed = train_loader(data, 8), train_loader(data, 8)
    list(loader)
    resumed.batch_sampler.epoch = 1
    assert [rows(x) for x, _ in loader] == [rows(x) for x, _ in resumed]


def test_excluded_items_never_come(data):
    excluded = probe_loader(data, 10).dataset.indices
    loader = train_loader(data, 4, exclude=excluded)
    seen = {row for _ in range(20) for x, _ in loader for row in rows(x)}
    assert seen == set(range(42)) - set(excluded)


def test_a_batch_larger_than_the_data_becomes_one_smaller_batch(data):
    assert [len(y) for _, y in train_loader(data, batch_size=100)] == [24]
    assert len(train_loader(data, batch_size=100)) == 1


def test_an_odd_batch_size_is_nearly_balanced(data):
    fakes = [int(y.sum()) for _, y in train_loader(data, batch_size=5)]
    assert len(fakes) == 4
    assert set(fakes) <= {2, 3}


def test_leaving_out_a_whole_class_is_an_error(data):
    with pytest.raises(DataError, match="0 real and 30 fake items are left after excluding 12 of 42"):
        train_loader(data, 4, exclude=range(12))


def test_a_batch_of_one_is_an_error(data):
    with pytest.raises(DataError, match=r"batch_size >= 2, .* got 1"):
        BalancedBatches(data.labels, 1)


def test_endless_strings_epochs_together(data):
    batches = [rows(x) for x, _ in itertools.islice(endless(train_loader(data, 8)), 6)]
    loader = train_loader(data, 8)
    assert batches == [rows(x) for _ in range(2) for x, _ in loader]


def test_endless_over_nothing_is_an_error_not_a_hang():
    with pytest.raises(DataError, match="at least one batch, got none"):
        next(endless([]))


def test_worker_processes_give_the_same_batches(data):
    alone, helped = (train_loader(data, 8, seed=2, num_workers=n) for n in (0, 1))
    assert [rows(x) for x, _ in alone] == [rows(x) for x, _ in helped]
