import random

import numpy as np
import pytest
import torch
from torch import nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.training.checkpoint import (
    load_checkpoint,
    load_model_state,
    model_state,
    save_checkpoint,
    set_random_states,
)


def _draws():
    return random.random(), float(np.random.normal()), float(torch.randn(()))  # noqa: NPY002


def test_random_numbers_go_on_where_they_stood(tmp_path):
    np.random.normal()  # noqa: NPY002 - leaves a cached second value behind
    random.gauss(0, 1)
    save_checkpoint(tmp_path / "c.pt", {"step": 3})
    expected = _draws()
    _draws()
    state = load_checkpoint(tmp_path / "c.pt")
    set_random_states(state["random"])
    assert _draws() == expected
    assert state["step"] == 3


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"step": 2, "bad": lambda: None})
    assert load_checkpoint(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_what_cannot_be_read_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "c.pt"
    path.write_bytes(b"half a file")
    with pytest.raises(ProbeError, match="delete the file to start this run over"):
        load_checkpoint(path)
    torch.save({"format": 0}, path)
    with pytest.raises(ProbeError, match="to have format 1"):
        load_checkpoint(path)
    torch.save({"format": 1, "code": nn.Linear(1, 1)}, path)  # would run code on loading
    with pytest.raises(ProbeError, match="cannot be read"):
        load_checkpoint(path)


def test_a_model_is_restored_bit_for_bit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model[0].bias.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model_state(model).items()}
    assert "0.bias" not in state
    assert "1.running_mean" in state
    model(torch.randn(5, 2))
    with torch.no_grad():
        model[0].weight.add_(1)
    load_model_state(model, state)
    for name, tensor in model_state(model).items():
        assert torch.equal(tensor, state[name])
    with pytest.raises(ProbeError, match=r"differs in 1 names, first '0.bias'"):
        load_model_state(model.requires_grad_(True), state)


def test_a_changed_bit_is_found_wherever_it_lies_in_a_record(tmp_path):
    """torch.load itself reads changed weights without a word."""
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"weights": torch.ones(1000)})
    whole = path.read_bytes()
    start = whole.index(torch.ones(4).numpy().tobytes())
    for place in (start, start + 2001, start + 3999):
        content = bytearray(whole)
        content[place] ^= 4
        path.write_bytes(bytes(content))
        assert not torch.equal(torch.load(path, weights_only=True)["weights"], torch.ones(1000))
        with pytest.raises(ProbeError, match=r"the checksum of its record .* is wrong\); delete the file to start"):
            load_checkpoint(path)
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ProbeError, match="delete the file to start this run over"):
            load_checkpoint(path)


def test_a_checkpoint_has_checksums_also_where_torch_writes_none(tmp_path):
    path = tmp_path / "c.pt"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        save_checkpoint(path, {"weights": torch.ones(1000)})
        assert not torch.serialization.get_crc32_options()  # the caller's choice stands for other files
        assert torch.equal(load_checkpoint(path)["weights"], torch.ones(1000))
        with pytest.raises(Exception, match="pickle"):
            save_checkpoint(path, {"bad": lambda: None})
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(before)
