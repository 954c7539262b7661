"""Context managers that restore parameters, buffers, gradients, modes and random states, bit for bit.

A measurement must not change the training run that it interrupts. With these, a run gives the same numbers to the
last bit whether or not it is measured in between.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.checksum import fingerprint
from gsnr_toolkit.inputs.global_rng import same_global_rng
from gsnr_toolkit.inputs.loader_state import undisturbed
from gsnr_toolkit.inputs.modes import Modes
from gsnr_toolkit.inputs.module_state import ModuleStates, modules_of


@contextmanager
def preserved_rng(*sources: Any, seed: int | None = None) -> Iterator[None]:
    """Restore the random states of torch (CPU and GPUs), numpy and Python on leaving.

    Iterating over a loader changes more than the global states: a shuffling sampler draws from a generator of its
    own, and many samplers count epochs. See :func:`~gsnr_toolkit.inputs.loader_state.undisturbed`.

    Args:
        *sources: Loaders, which are restored too, with their samplers and data sets.
        seed: Seed all global states with this on entering; None leaves them unchanged.

    Yields:
        Nothing.
    """
    with same_global_rng(seed), undisturbed(*sources):
        yield


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
def preserved_model(model: nn.Module, loss_fn: Callable[..., Any] | None = None) -> Iterator[None]:
    """Restore all but the parameters of a model on leaving, and check that these did not change.

    Restored are buffers, gradients, modes, ``requires_grad`` flags, and states in plain attributes (metrics, counters);
    also those of modules that the loss refers to. A probe never writes to parameters. If the caller's code does (a loss
    or a hook that steps an optimizer), every measured number would mix several models, so that is an error.

    Args:
        model: The model that is measured inside the block.
        loss_fn: The loss that it is measured with.

    Yields:
        Nothing.

    Raises:
        ProbeError: If the bits of a parameter differ on leaving, or it is another object.
    """
    modes, states = Modes(model), _States(model, loss_fn)
    wanted = [(param, param.requires_grad) for param in model.parameters()]
    # Checksums rather than copies: copies would double the memory that the parameters take.
    before = {name: (id(param), fingerprint(param)) for name, param in model.named_parameters()}
    try:
        yield
    finally:
        modes.restore()
        states.restore()
        for param, flag in wanted:
            if param.requires_grad != flag:
                param.requires_grad_(flag)
    after = {name: (id(param), fingerprint(param)) for name, param in model.named_parameters()}
    changed = [name for name in before | after if before.get(name) != after.get(name)]
    if changed:
        raise ProbeError(
            f"expected the model to stay fixed while it is measured, but {len(changed)} parameters changed, "
            f"first {changed[0]!r}; remove optimizer steps and weight edits from loss_fn, hooks and the loader"
        )


class _States:
    """Snapshot of what a model and the modules inside a loss hold besides parameters, modes and flags.

    Gradients of the model are set aside, so that a backward pass does not add to the caller's.
    """

    def __init__(self, model: nn.Module, loss_fn: Callable[..., Any] | None) -> None:
        own = set(model.modules())
        others = [module for module in modules_of(loss_fn) if module not in own]
        self._buffers = [_Buffers(module, values=True) for module in (model, *others)]
        self._attributes = ModuleStates(model, *others)
        self._grads = _set_aside_grads(model)

    def restore(self) -> None:
        for buffers in self._buffers:
            buffers.restore()
        self._attributes.restore()
        for param, grad in self._grads:
            param.grad = grad


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
def restored_parameters(model: nn.Module, loss_fn: Callable[..., Any] | None = None) -> Iterator[None]:
    """Restore parameters, buffers, gradients, modes and other states on leaving, for code that trains the model inside.

    Args:
        model: The model that is trained inside the block.
        loss_fn: The loss that it is trained with.

    Yields:
        Nothing.
    """
    saved = [(param, param.detach().clone()) for param in model.parameters()]
    modes, states = Modes(model), _States(model, loss_fn)
    try:
        yield
    finally:
        modes.restore()
        with torch.no_grad():
            for param, value in saved:
                param.copy_(value)
        states.restore()
