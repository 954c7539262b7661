"""Checkpoints: written atomically, with the random states that a run depends on."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gsnr_toolkit.errors import ProbeError, first_line
from gsnr_toolkit.support.atomic import atomic_file

_FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write nested tensors and plain values atomically, together with the current random states."""
    with atomic_file(path) as stream, _with_checksums():
        torch.save({"format": _FORMAT, "random": random_states(), **state}, stream)


@contextmanager
def _with_checksums() -> Iterator[None]:
    """Let torch.save write checksums, which :func:`load_checkpoint` compares, also if they are switched off."""
    if not hasattr(torch.serialization, "get_crc32_options"):  # a torch that always writes them
        yield
        return
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing code from it.

    Args:
        path: A file written by :func:`save_checkpoint`.

    Returns:
        The state, on the CPU.

    Raises:
        ProbeError: If the file is not a checkpoint, or has another format.
    """
    try:
        _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ProbeError(
            f"expected {path} to be a checkpoint of this program, but it cannot be read ({type(error).__name__}: "
            f"{first_line(error)}); delete the file to start this run over"
        ) from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != _FORMAT:
        raise ProbeError(
            f"expected {path} to have format {_FORMAT}, got {found!r}; delete the file to start this run over"
        )
    return state


def _check_sums(path: Path) -> None:
    """Compare every record with its checksum, which torch.load does not do: it would load changed weights."""
    with zipfile.ZipFile(path) as records:
        broken = records.testzip()
    if broken is not None:
        raise zipfile.BadZipFile(f"the checksum of its record {broken} is wrong")


def model_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Collect what training changes, by name and not copied: trainable parameters and buffers."""
    params = {name: param.detach() for name, param in model.named_parameters() if param.requires_grad}
    return params | {name: buffer.detach() for name, buffer in model.named_buffers()}


@torch.no_grad()
def load_model_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load the result of :func:`model_state` into a model, bit for bit.

    Args:
        model: The same model, with the same parameters trainable.
        state: The tensors.

    Raises:
        ProbeError: If the names differ, because the model has changed.
    """
    own = model_state(model)
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        raise ProbeError(
            f"expected a checkpoint of this model's trained tensors, got one that differs in {len(odd)} names, first "
            f"{odd[0]!r}; the code of the model or the library has changed: start this run over in another folder"
        )
    for name, tensor in own.items():
        tensor.copy_(state[name])


def random_states() -> dict[str, Any]:
    """Return the states of all global random generators by name, as plain values and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - models and data may draw from it
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Restore the states of all global random generators.

    Args:
        states: The result of :func:`random_states`.
    """
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
