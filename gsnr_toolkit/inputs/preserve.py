"""Context managers that restore parameters, buffers, gradients, modes and random states, bit for bit.

A measurement must not change the training run that it interrupts. With these, a run gives the same numbers to the
last bit whether or not it is measured in between.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.checksum import fingerprint
from gsnr_toolkit.inputs.modes import Modes


@contextmanager
def preserved_rng(*sources: Any, seed: int | None = None) -> Iterator[None]:
    """Restore the random states of torch (CPU and GPUs), numpy and Python on leaving.

    Iterating over a loader changes more than the global states: a shuffling sampler draws from a generator of its
    own, and many samplers count epochs. Both decide the order of the next epoch, so both are restored.

    Args:
        *sources: Loaders. Random generators (of torch, numpy or Python) and integer attributes ``epoch`` of these
            loaders, their samplers and batch samplers are restored too.
        seed: Seed all global states with this on entering; None leaves them unchanged.

    Yields:
        Nothing.
    """
    owners = _owners(sources)
    generators = _generators(owners)
    saved = [_generator_state(generator) for generator in generators]
    epochs = [(owner, vars(owner)["epoch"]) for owner in owners if isinstance(vars(owner).get("epoch"), int)]
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
            _set_generator_state(generator, state)
        for owner, epoch in epochs:
            owner.epoch = epoch


def random_state() -> tuple[Any, ...]:
    """Return all global random states, to compare before and after: they are equal if the code between drew nothing.

    Returns:
        The states of Python, numpy, torch's CPU and its GPUs, comparable with ``==``.

    >>> before = random_state()
    >>> _ = torch.rand(1)
    >>> random_state() == before
    False
    """
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - models may draw from it
    gpu_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    states = [bytes(state.numpy()) for state in (torch.get_rng_state(), *gpu_states)]
    return random.getstate(), name, np.asarray(keys).tobytes(), tuple(rest), *states


def _owners(sources: tuple[Any, ...]) -> list[Any]:
    """Collect the distinct loaders, samplers and batch samplers whose attributes can be read."""
    found: dict[int, Any] = {}
    for source in sources:
        batch_sampler = getattr(source, "batch_sampler", None)
        samplers = (getattr(source, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
        parts = (source, *samplers, getattr(source, "dataset", None))
        found.update((id(part), part) for part in parts if hasattr(part, "__dict__"))
    return list(found.values())


def _generators(owners: Iterable[Any]) -> list[Any]:
    """Collect the distinct random generators among the attributes of loaders and samplers."""
    kinds = (torch.Generator, np.random.Generator, random.Random)
    found = {id(value): value for owner in owners for value in vars(owner).values() if isinstance(value, kinds)}
    return list(found.values())


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.getstate() if isinstance(generator, random.Random) else generator.bit_generator.state


def _set_generator_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = state


class _Buffers:
    """Snapshot of a model's buffers: the object that each module holds under each name and, on request, its value."""

    def __init__(self, model: nn.Module, *, values: bool) -> None:
        self._tables = [(module, dict(module._buffers)) for module in model.modules()]
        self._values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()] if values else []

    def restore(self) -> None:
        """Put the same objects back under the same names, drop new names, and restore values that differ."""
        for module, table in self._tables:
            now = module._buffers
            if list(now) != list(table) or any(now[name] is not held for name, held in table.items()):
                module._buffers.clear()
                module._buffers.update(table)
        with torch.no_grad():
            for buffer, value in self._values:
                # A forward pass may have resized a buffer or swapped its storage; only then is the storage replaced.
                if buffer.shape != value.shape or buffer.dtype != value.dtype or buffer.device != value.device:
                    buffer.data = value
                elif not _same_bits(buffer, value):  # an in-place write would invalidate graphs that saved the buffer
                    buffer.copy_(value)


@contextmanager
def same_buffer_objects(model: nn.Module) -> Iterator[None]:
    """Put a model's buffer objects back on leaving, in case its forward pass assigns new ones.

    Under ``torch.func`` a forward pass that assigns a buffer stores a tensor of the transform. That tensor is invalid
    once the transform ends, and the next forward pass would fail on it. Values written in place are not restored.

    Args:
        model: The model that runs inside the block.

    Yields:
        Nothing.
    """
    buffers = _Buffers(model, values=False)
    try:
        yield
    finally:
        buffers.restore()


@contextmanager
def preserved_model(model: nn.Module) -> Iterator[None]:
    """Restore buffers, gradients and train/eval modes on leaving, and check that parameters did not change.

    A probe never writes to parameters. If the caller's code does (a loss or a hook that steps an optimizer), every
    measured number would mix several models, so that is an error.

    Args:
        model: The model that is measured inside the block.

    Yields:
        Nothing.

    Raises:
        ProbeError: If the bits of a parameter differ on leaving.
    """
    modes = Modes(model)
    buffers = _Buffers(model, values=True)
    grads = _set_aside_grads(model)
    # Checksums rather than copies: copies would double the memory that the parameters take.
    before = {name: fingerprint(param) for name, param in model.named_parameters()}
    try:
        yield
    finally:
        modes.restore()
        buffers.restore()
        for param, grad in grads:
            param.grad = grad
    changed = [name for name, param in model.named_parameters() if fingerprint(param) != before.get(name)]
    if changed:
        raise ProbeError(
            f"expected the model to stay fixed while it is measured, but {len(changed)} parameters changed, "
            f"first {changed[0]!r}; remove optimizer steps and weight edits from loss_fn, hooks and the loader"
        )


def _set_aside_grads(model: nn.Module) -> list[tuple[nn.Parameter, Tensor | None]]:
    """Detach ``.grad`` from every parameter, so that a backward pass does not add to the caller's gradients."""
    grads = [(param, param.grad) for param in model.parameters()]
    for param, _ in grads:
        param.grad = None
    return grads


def _same_bits(first: Tensor, second: Tensor) -> bool:
    # The comparison of values rules out a collision of checksums; NaN never equals itself, so it is replaced first.
    return (
        first.shape == second.shape
        and fingerprint(first) == fingerprint(second)
        and torch.equal(first.nan_to_num(), second.nan_to_num())
    )


@contextmanager
def restored_parameters(model: nn.Module) -> Iterator[None]:
    """Restore parameters, buffers, gradients and modes on leaving, for code that trains the model inside.

    Args:
        model: The model that is trained inside the block.

    Yields:
        Nothing.
    """
    saved = [(param, param.detach().clone()) for param in model.parameters()]
    buffers = _Buffers(model, values=True)
    grads = _set_aside_grads(model)
    modes = Modes(model)
    try:
        yield
    finally:
        modes.restore()
        with torch.no_grad():
            for param, value in saved:
                param.copy_(value)
        for param, grad in grads:
            param.grad = grad
        buffers.restore()
