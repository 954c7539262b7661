"""Snapshots of what an object holds in its attributes, to put it back in place."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsnr_toolkit.inputs.checksum import fingerprint

_FEW = 64
"""Containers of at most so many entries are searched for containers inside."""


class Attributes:
    """Snapshot of an object's attributes, of the entries of containers and of the values of arrays among them.

    Args:
        owner: Any object with a ``__dict__``.
        skip: Names to leave out.
        arrays: Keep copies of arrays and tensors too.
        caches: Leave dictionaries alone that only gained entries.
    """

    def __init__(self, owner: Any, *, skip: Collection[str] = (), arrays: bool = True, caches: bool = False) -> None:
        self._owner, self._skip, self._caches = owner, skip, caches
        self._held = self._now()
        self._containers = [pair for value in self._held.values() for pair in _containers(value)]
        values = self._held.values() if arrays else ()
        self._tensors = [(value, value.detach().clone()) for value in values if _is_state(value)]
        self._arrays = [(value, value.copy()) for value in values if isinstance(value, np.ndarray)]

    def _now(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self._owner).items() if name not in self._skip}

    def changed(self) -> bool:
        """Whether an attribute is another object, or a container has other entries."""
        entries = any(not _same_entries(value, saved) for value, saved in self._containers)
        return entries or not _same_entries(self._now(), self._held)

    def restore(self) -> None:
        """Put everything back as it was; nothing is written where nothing differs."""
        now = vars(self._owner)
        for name in self._now().keys() - self._held.keys():
            del now[name]
        now.update(self._held)
        for container, saved in self._containers:
            if not _same_entries(container, saved) and not (self._caches and _only_gained(container, saved)):
                _refill(container, saved)
        for array, kept in self._arrays:
            if array.flags.writeable:
                array[...] = kept
        with torch.no_grad():
            for tensor, value in self._tensors:
                if fingerprint(tensor) != fingerprint(value):  # writes would invalidate graphs that saved the tensor
                    tensor.copy_(value)


def _is_state(value: Any) -> bool:
    # Tensors with a gradient are computed from parameters, not states.
    return isinstance(value, Tensor) and not value.requires_grad and not value.is_meta


def _containers(value: Any, depth: int = 3) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, (list, deque, set, dict)):
        yield value, value.copy()
    if depth and isinstance(value, (list, deque, dict, tuple)) and len(value) <= _FEW:
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _containers(entry, depth - 1)


def _same_entries(first: Any, second: Any) -> bool:
    if isinstance(first, set):
        return first == second
    if isinstance(first, dict):
        return list(first) == list(second) and all(first[name] is value for name, value in second.items())
    return len(first) == len(second) and all(one is other for one, other in zip(first, second, strict=True))


def _only_gained(container: Any, saved: Any) -> bool:
    return isinstance(container, dict) and all(
        name in container and container[name] is value for name, value in saved.items()
    )


def _refill(container: Any, saved: Any) -> None:
    if not (isinstance(container, dict) and list(container) == list(saved)):  # a loop over its keys may be running
        container.clear()
    if isinstance(container, (dict, set)):
        container.update(saved)
    else:
        container.extend(saved)
