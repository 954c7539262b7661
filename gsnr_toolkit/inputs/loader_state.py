"""Reading a loader that a loop may be reading at the same time, without a trace."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import IOBase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.attributes import Attributes
from gsnr_toolkit.inputs.global_rng import same_global_rng

_GENERATORS = (torch.Generator, np.random.Generator, random.Random)
_SHARED = {"gradient_state"}
"""Attributes of loaders with a state that they share with a training loop (accelerate)."""


@contextmanager
def undisturbed(*loaders: Any) -> Iterator[None]:
    """Restore loaders, their samplers and data sets on leaving: attributes, epochs and random generators.

    Inside, loaders with persistent workers get workers of their own: their ``iter()`` would reset the one iterator
    that a running loop reads from. Streams (see :func:`is_stream`) are not restored: what was taken is gone.

    Args:
        *loaders: Anything with ``iter()``; None is skipped.

    Yields:
        Nothing.
    """
    with _restored([loader for loader in loaders if not is_stream(loader)]):
        yield


@contextmanager
def _restored(loaders: Iterable[Any]) -> Iterator[None]:
    owners = _owners(loaders)
    # Arrays of a data set may be large, and hold its samples; those of samplers hold an order.
    # What a data set of numbered samples adds to a dictionary is a cache, which costs to fill again.
    mapped = [isinstance(owner, Dataset) and not isinstance(owner, IterableDataset) for owner in owners]
    saved = [
        Attributes(owner, arrays=not isinstance(owner, Dataset), caches=cached)
        for owner, cached in zip(owners, mapped, strict=True)
    ]
    found = {id(value): value for owner in owners for value in vars(owner).values() if isinstance(value, _GENERATORS)}
    generators = [(generator, _generator_state(generator)) for generator in found.values()]
    for owner in owners:
        if isinstance(owner, DataLoader) and vars(owner).get("persistent_workers"):
            vars(owner).update(persistent_workers=False, _iterator=None)  # DataLoader refuses assignment
    try:
        yield
    finally:
        for attributes in saved:
            attributes.restore()
        for generator, state in generators:
            _set_generator_state(generator, state)


def is_stream(loader: Any) -> bool:
    """Whether a loader is an iterator that goes on from where it is, and does not start anew by ``iter()``.

    Args:
        loader: Any object.

    Returns:
        True for generators, files and other iterators; False for an iterator that ``iter()`` resets.

    >>> is_stream(iter([1])), is_stream([1])
    (True, False)
    """
    if not hasattr(loader, "__next__"):
        return False
    if not hasattr(loader, "__dict__"):
        return True
    with same_global_rng(), _restored([loader]):
        before = Attributes(loader, arrays=False)
        return iter(loader) is loader and not before.changed()


def check_shareable(loader: Any, *, repeatedly: bool = False) -> None:
    """Check that a loader can be read while a loop is reading it.

    A stream that is to be read once is accepted: taking from it is what its owner asks for.

    Args:
        loader: A loader.
        repeatedly: Whether it is read along a training run, so that streams are refused too.

    Raises:
        ProbeError: If both would take their batches from one iterator.
    """
    if is_stream(loader):
        reason = "an iterator that goes on from where it is" if repeatedly else None
    else:
        reason = next(filter(None, map(_shared_iterator, _owners([loader]))), None)
    if reason is not None:
        raise ProbeError(
            f"expected a loader that starts anew by iter(), got {type(loader).__name__} with {reason}: measuring "
            "would take batches from the loop that reads it; pass a list of batches, or a loader of its own"
        )


def _owners(loaders: Iterable[Any]) -> list[Any]:
    """Collect loaders and what they are made of: other loaders, samplers, data sets."""
    found: dict[int, Any] = {}
    pending = list(loaders)
    while pending:
        owner = pending.pop()
        if id(owner) in found or not hasattr(owner, "__dict__"):
            continue
        found[id(owner)] = owner
        for name, value in vars(owner).items():
            inner = [*value.values()] if isinstance(value, dict) else [*value] if type(value) in (list, tuple) else []
            parts = [value, *(inner if len(inner) <= 64 else [])]
            pending += [part for part in parts if name in _SHARED or _is_part(part, owner)]
    return list(found.values())


def _of_running_loop(owner: Any, value: Any) -> bool:
    """Whether an attribute is the iterator of a running loop, which iter() of its loader replaces."""
    return isinstance(owner, DataLoader) and isinstance(value, _BaseDataLoaderIter)


def _is_part(value: Any, owner: Any) -> bool:
    if isinstance(value, (type, _BaseDataLoaderIter)) or not hasattr(value, "__dict__"):
        return False
    if isinstance(value, (DataLoader, Sampler, Dataset)):
        return True
    if any(isinstance(held, _GENERATORS) for held in vars(value).values()):  # augmentations
        return True
    foreign = isinstance(value, (Tensor, np.ndarray, nn.Module)) or isinstance(owner, Dataset)
    return not foreign and hasattr(value, "__iter__")


def _shared_iterator(part: Any) -> str | None:
    """Say which iterator all loops over a part read from; None if there is none to be found."""
    if isinstance(part, Dataset) and not isinstance(part, IterableDataset):
        return None
    kind, method = type(part).__name__, getattr(type(part), "__iter__", None)
    cells = [cell.cell_contents for cell in getattr(method, "__closure__", None) or ()]
    if any(_is_source(value) for value in cells):
        return f"an iterator that {kind}.__iter__ refers to"
    sources = {name: value for name, value in vars(part).items() if _is_source(value)}
    held = {name: value for name, value in sources.items() if not _of_running_loop(part, value)}
    if method is not None and not isinstance(part, DataLoader) and not inspect.isgeneratorfunction(method):
        with same_global_rng(), _restored([part]):
            first = iter(part)
            if first is iter(part) and (first is not part or is_stream(part)):
                return f"an iterator shared by all loops ({kind}.__iter__)"
            reset = [name for name, value in held.items() if vars(part).get(name) is not value]
            held = {name: value for name, value in held.items() if name not in reset}
    return next((f"the iterator {kind}.{name}" for name in held), None)


def _is_source(value: Any) -> bool:
    return not isinstance(value, (type, IOBase)) and is_stream(value)


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
