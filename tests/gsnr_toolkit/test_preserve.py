import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.preserve import preserved_model, preserved_rng, restored_parameters


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
        pass


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
