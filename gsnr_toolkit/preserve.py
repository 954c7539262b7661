"""Leave everything as it was found: parameters, buffers, gradients, modes and random states, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gsnr_toolkit.errors import ProbeError


@contextmanager
def preserved_rng(*sources: Any, seed: int | None = None) -> Iterator[None]:
    """Restore the random states of torch (CPU and GPUs), numpy and python on leaving.

    Args:
        *sources: Objects that may own a ``torch.Generator`` as ``.generator`` (a DataLoader and its
            samplers); theirs are restored too.
        seed: Seed everything with this on entering; leave the state as it is when None.

    Yields:
        Nothing.
    """
    generators = _generators(sources)
    saved = [generator.get_state() for generator in generators]
    python_state, numpy_state, cpu_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    gpu_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - models and data sets may draw from it
            torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(cpu_state)
        if gpu_states:
            torch.cuda.set_rng_state_all(gpu_states)
        for generator, state in zip(generators, saved, strict=True):
            generator.set_state(state)


def _generators(sources: tuple[Any, ...]) -> list[torch.Generator]:
    """Collect the distinct generators of loaders, their samplers and batch samplers."""
    found: dict[int, torch.Generator] = {}
    for source in sources:
        batch_sampler = getattr(source, "batch_sampler", None)
        owners = [source, getattr(source, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)]
        for owner in owners:
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    return list(found.values())


@contextmanager
def preserved_model(model: nn.Module) -> Iterator[None]:
    """Restore buffers, gradients and train/eval modes on leaving, and prove that parameters did not change.

    Parameters are never written by a probe; should the caller's own code (a loss or a hook that steps an
    optimizer) write to them, that is an error, since every number would mix several models.

    Args:
        model: The model to watch.

    Yields:
        Nothing.

    Raises:
        ProbeError: If a parameter's bits differ on leaving.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    grads = _set_aside_grads(model)
    before = {name: _fingerprint(param) for name, param in model.named_parameters()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers and not _same_bits(buffer, buffers[name]):
                    buffer.copy_(buffers[name])
        for name, param in model.named_parameters():
            param.grad = grads[name]
    changed = [name for name, param in model.named_parameters() if _fingerprint(param) != before.get(name)]
    if changed:
        raise ProbeError(
            f"expected the model to stay fixed while it is measured, but {len(changed)} parameters changed, "
            f"first {changed[0]!r}; remove optimizer steps and weight edits from loss_fn, hooks and the loader"
        )


def _set_aside_grads(model: nn.Module) -> dict[str, Tensor | None]:
    """Take ``.grad`` off every parameter, so that a backward inside adds to nothing of the caller's."""
    grads = {name: param.grad for name, param in model.named_parameters()}
    for param in model.parameters():
        param.grad = None
    return grads


def _same_bits(first: Tensor, second: Tensor) -> bool:
    return (
        first.shape == second.shape
        and _fingerprint(first) == _fingerprint(second)
        and torch.equal(first.nan_to_num(), second.nan_to_num())
    )


def _fingerprint(tensor: Tensor) -> tuple[int, ...]:
    """Position-dependent checksum of a tensor's bits, and its shape."""
    data = tensor.detach()
    if data.is_sparse:
        data = data.coalesce().values()
    bits = data.contiguous().reshape(-1).view(torch.uint8) if data.numel() else torch.zeros(0, dtype=torch.uint8)
    pad = -bits.numel() % 4
    words = torch.nn.functional.pad(bits, (0, pad)).view(torch.int32) if bits.numel() else bits
    total = int(words.sum(dtype=torch.int64)) if words.numel() else 0
    odd = int(words[::2].sum(dtype=torch.int64)) if words.numel() else 0
    return (total, odd, *tensor.shape)


@contextmanager
def restored_parameters(model: nn.Module) -> Iterator[None]:
    """Give parameters back bit for bit on leaving, for runs that do train the model in between.

    Args:
        model: The model that is trained inside the block.

    Yields:
        Nothing.
    """
    saved = {name: param.detach().clone() for name, param in model.named_parameters()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    grads = _set_aside_grads(model)
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, param in model.named_parameters():
                param.copy_(saved[name])
                param.grad = grads[name]
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for module, mode in modes.items():
            module.training = mode
