import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from gsnr_toolkit import estimate_gsnr
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.checksum import fingerprint
from gsnr_toolkit.inputs.preserve import preserved_model, preserved_rng, restored_parameters


def _draws():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_random_states_come_back_also_after_an_error():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = _draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    with pytest.raises(KeyboardInterrupt), preserved_rng(seed=7):
        _draws()
        raise KeyboardInterrupt
    assert _draws() == expected


def test_a_seed_makes_the_block_repeatable():
    with preserved_rng(seed=3):
        first = _draws()
    with preserved_rng(seed=3):
        assert _draws() == first


def test_generators_of_loaders_come_back():
    loader = DataLoader(TensorDataset(torch.arange(8.0)), shuffle=True, generator=torch.Generator().manual_seed(5))
    before = loader.generator.get_state()
    with preserved_rng(loader):
        list(loader)
    torch.testing.assert_close(loader.generator.get_state(), before)


def test_buffers_modes_and_grads_come_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    model[0].weight.grad = torch.ones(2, 2)
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with preserved_model(model):
        model(torch.randn(5, 2)).sum().backward()
        model.eval()
        model[2].train()
    assert model[1].training
    assert not model[2].training
    torch.testing.assert_close(model[0].weight.grad, torch.ones(2, 2), rtol=0, atol=0)
    assert model[0].bias.grad is None
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_changed_parameter_is_an_error_that_names_it():
    model = nn.Linear(2, 2)
    with pytest.raises(ProbeError, match="1 parameters changed, first 'bias'"), preserved_model(model):
        model.bias.data.add_(1e-6)


def test_an_unchanged_model_with_nan_passes():
    model = nn.Linear(2, 2)
    model.weight.data.fill_(float("nan"))
    with preserved_model(model):
        model.weight.data.clone()
    assert model.weight.isnan().all()


def test_swapped_rows_do_not_go_unseen():
    model = nn.Linear(1, 2)
    with pytest.raises(ProbeError, match="changed"), preserved_model(model):
        model.weight.data.copy_(model.weight.data.flip(0).clone())


def test_training_is_undone_bit_for_bit():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="boom"), restored_parameters(model):
        model(torch.randn(5, 2)).sum().backward()
        torch.optim.SGD(model.parameters(), lr=1.0).step()
        model.eval()
        raise RuntimeError("boom")
    assert model.training
    assert all(param.grad is None for param in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


class _Averaging(nn.Module):
    """Assigns a new tensor to its buffer at every forward pass, from the old one, as running averages do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x):
        self.last = 0.5 * self.last + x.detach().mean()
        return self.layer(x)


@pytest.mark.parametrize("keep", [preserved_model, restored_parameters])
def test_a_reassigned_buffer_comes_back_as_the_same_object(keep):
    model = _Averaging()
    own = model.last
    with keep(model):
        model.last.add_(2)
        model(torch.ones(2, 3))
        assert model.last is not own
    assert model.last is own
    assert own.item() == 0


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_a_buffer_assigned_inside_vmap_is_no_dead_tensor(engine):
    model, inputs = _Averaging(), torch.randn(80, 3)
    own = model.last
    report = estimate_gsnr(model, [(inputs, torch.arange(80) % 2)], engine=engine, progress=False)
    assert report.total["num_samples"] == 80
    assert model.last is own
    assert own.item() == 0


@pytest.mark.parametrize("keep", [preserved_model, restored_parameters])
def test_what_is_registered_inside_goes_and_masks_no_error(keep):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    names = list(model.state_dict())
    with pytest.raises(RuntimeError, match="boom"), keep(model):
        model[0].register_buffer("cache", torch.zeros(3))
        model.register_buffer("other", None)
        del model[1].num_batches_tracked
        raise RuntimeError("boom")
    assert list(model.state_dict()) == names
    assert list(model._buffers) == []


@pytest.mark.parametrize("keep", [preserved_model, restored_parameters])
def test_a_parameter_registered_inside_masks_no_error(keep):
    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="boom"), keep(model):
        model.extra = nn.Parameter(torch.zeros(1))
        raise RuntimeError("boom")


def test_a_buffer_of_another_shape_or_type_comes_back():
    model = nn.BatchNorm1d(2)
    with preserved_model(model):
        model.running_mean.data = torch.ones(5)
        model.running_var.data = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(model.running_mean, torch.zeros(2))
    torch.testing.assert_close(model.running_var, torch.ones(2))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1, 2, 3, 4], [3, 4, 1, 2]),  # same places modulo 2
        ([1, 2, 4, 3], [2, 1, 3, 4]),  # same sum of index times word
        ([1, 1, 0, 0], [0, 0, 1, 1]),
    ],
)
def test_the_fingerprint_knows_the_place_of_every_word(first, second):
    words = [torch.tensor(values, dtype=torch.int32) for values in (first, second)]
    assert fingerprint(words[0]) != fingerprint(words[1])
    assert fingerprint(words[0]) == fingerprint(words[0].clone())


def test_the_fingerprint_knows_the_order_of_blocks():
    rows = torch.stack([torch.zeros(2**18), torch.ones(2**18)])
    assert fingerprint(rows) != fingerprint(rows.flip(0))
    assert fingerprint(rows) == fingerprint(rows.clone())


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.uint8, torch.complex64, torch.float64])
def test_the_fingerprint_of_any_type_and_offset(dtype):
    values = torch.ones(9, dtype=dtype)
    changed = values.clone()
    changed[3] = 0
    assert fingerprint(values[1:6]) == fingerprint(values[1:6].clone())
    assert fingerprint(values[1:6]) != fingerprint(changed[1:6])


class _Counting(Sampler):
    """Draws another order at every pass: by its epoch, and by generators of numpy and python."""

    def __init__(self):
        self.epoch = 0
        self.rng = np.random.default_rng(0)
        self.shuffler = random.Random(0)

    def __iter__(self):
        self.epoch += 1
        order = self.rng.permutation(8).tolist()
        self.shuffler.shuffle(order)
        return iter(order[self.epoch :] + order[: self.epoch])

    def __len__(self):
        return 8


def test_samplers_that_count_or_draw_by_themselves_come_back():
    loader = DataLoader(TensorDataset(torch.arange(8.0)), sampler=_Counting())
    with preserved_rng(loader):
        first = torch.cat([batch[0] for batch in loader])
        second = torch.cat([batch[0] for batch in loader])
    assert not torch.equal(first, second)
    assert loader.sampler.epoch == 0
    torch.testing.assert_close(torch.cat([batch[0] for batch in loader]), first)
