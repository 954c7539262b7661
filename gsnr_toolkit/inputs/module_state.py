"""States of modules outside parameters and buffers: metrics, counters, caches; also of modules inside a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

from torch import nn

from gsnr_toolkit.inputs.attributes import Attributes

_BOOKKEEPING = frozenset(vars(nn.Module()))


class ModuleStates:
    """Snapshot of the plain attributes of all submodules of some modules; metrics keep their sums there."""

    def __init__(self, *modules: nn.Module) -> None:
        found = {id(part): part for module in modules for part in module.modules()}
        self._saved = [Attributes(part, skip=_BOOKKEEPING) for part in found.values()]

    def restore(self) -> None:
        """Put the attributes back where they differ."""
        for attributes in self._saved:
            attributes.restore()


def modules_of(function: Callable[..., Any] | None) -> list[nn.Module]:
    """Find the modules that a function refers to: by closure, default, partial, global, or as its object.

    Args:
        function: A loss function, or None.

    Returns:
        Distinct modules, without their submodules.

    >>> from torch import nn
    >>> head = nn.Linear(2, 1)
    >>> modules_of(lambda x: head(x)) == [head]
    True
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()
    pending: list[tuple[Any, int]] = [(function, 0)]
    while pending:
        value, depth = pending.pop()
        if id(value) in seen or depth > 4 or _foreign(value):
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found[id(value)] = value
            continue
        pending += [(inner, depth + 1) for inner in _referred(value)]
    return list(found.values())


def _foreign(value: Any) -> bool:
    home = getattr(value, "__module__", None)
    library = isinstance(home, str) and home.split(".")[0] in ("torch", "numpy", "builtins")
    return isinstance(value, ModuleType) or (library and not isinstance(value, (nn.Module, partial, list, tuple, dict)))


def _referred(value: Any) -> Iterator[Any]:
    if isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    if isinstance(value, (list, tuple, dict)) and len(value) <= 64:
        yield from value.values() if isinstance(value, dict) else value
    code = getattr(value, "__code__", None)
    if code is None:
        if not isinstance(value, type) and hasattr(value, "__dict__"):
            yield from [inner for inner in vars(value).values() if isinstance(inner, (nn.Module, dict, list))]
        if callable(value) and not isinstance(value, type):
            yield getattr(type(value).__call__, "__func__", type(value).__call__)
        return
    if getattr(value, "__self__", None) is not None:
        yield value.__self__
        yield value.__func__
        return
    for cell in value.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from value.__defaults__ or ()
    yield from (value.__globals__[name] for name in code.co_names if name in value.__globals__)
