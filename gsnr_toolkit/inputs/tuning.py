"""Tuning modes: train the head only, the norms, the last blocks, or all parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.groups import assign_groups, find_blocks
from gsnr_toolkit.support.lookup import did_you_mean

__all__ = ["MODES", "Tuning", "find_head", "parse_tuning", "set_tuning"]

#: What each mode trains.
MODES = {
    "head": "the head only: a linear probe",
    "norms": "the scale and shift of every normalisation layer, and the head",
    "last": "the last k blocks, what follows them (final norm, projection), and the head",
    "full": "everything",
}

_HEAD_NAMES = ("head", "heads", "fc", "classifier", "last_linear")


@dataclass(frozen=True)
class Tuning:
    """A tuning mode; ``last_k`` is the number of blocks in mode ``"last"`` and None in all others."""

    mode: str
    last_k: int | None = None

    def __str__(self) -> str:
        return self.mode if self.last_k is None else f"{self.mode}-{self.last_k}"


def parse_tuning(text: str) -> Tuning:
    """Parse a tuning mode as written on the command line.

    Args:
        text: ``"head"``, ``"norms"``, ``"full"``, ``"last"`` (the last block) or ``"last-K"``.

    Returns:
        The mode.

    Raises:
        ProbeError: If the text is none of these.

    >>> parse_tuning("last-2"), str(parse_tuning("last")), parse_tuning("norms")
    (Tuning(mode='last', last_k=2), 'last-1', Tuning(mode='norms', last_k=None))
    >>> parse_tuning("norm")
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected a tuning (head: the head only: ...), got 'norm'; ... mean 'norms'?
    """
    found = re.fullmatch(r"last(?:-(\d+))?", text)
    if found:
        return Tuning("last", _positive(int(found[1] or 1)))
    if text in MODES:
        return Tuning(text)
    written = {"last-K" if mode == "last" else mode: what for mode, what in MODES.items()}
    listed = ", or ".join(f"{mode}: {what}" for mode, what in written.items())
    raise ProbeError(f"expected a tuning ({listed}), got {text!r}; choose one of these.{did_you_mean(text, written)}")


def set_tuning(model: nn.Module, mode: str | Tuning, last_k: int | None = None) -> list[str]:
    """Choose which parameters are trained, by setting ``requires_grad`` of every parameter of a model.

    The previous setting does not matter.

    Args:
        model: Any model; it is changed in place. :func:`find_head` says which module is its head.
        mode: One of :data:`MODES`, a :class:`Tuning`, or text as :func:`parse_tuning` reads it.
        last_k: The number of blocks, for mode ``"last"`` only.

    Returns:
        The names of the trainable parameters, in the model's order.

    Raises:
        ProbeError: If the mode is unknown, or the model has no head, norm or blocks for it to act on.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    >>> set_tuning(model, "norms")
    ['1.weight', '1.bias', '2.weight', '2.bias']
    >>> set_tuning(model, "head")
    ['2.weight', '2.bias']
    """
    tuning = mode if isinstance(mode, Tuning) else _tuning(mode, last_k)
    names = [name for name, _ in model.named_parameters()]
    if not names:
        raise ProbeError(
            f"expected a model with parameters, but {type(model).__name__} has none; pass the model that is trained"
        )
    chosen = {"head": _head, "norms": _norms, "last": _last, "full": _full}[tuning.mode](model, tuning)
    # Compare tensors rather than names: named_parameters() lists a tied parameter under one of its names only.
    trainable = {id(parameter) for parameter in chosen}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trainable)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def find_head(model: nn.Module) -> str:
    """Find the head of a model.

    Args:
        model: Any model.

    Returns:
        The path of the topmost module that is called head, heads, fc, classifier or last_linear and has
        parameters. If there is none, the path of the last linear layer.

    Raises:
        ProbeError: If the model has neither.

    >>> find_head(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    '2'
    """
    with_parameters = {path: module for path, module in model.named_modules() if any(True for _ in module.parameters())}
    called = [path for path in with_parameters if path.rpartition(".")[2] in _HEAD_NAMES]
    if called:
        return min(called, key=lambda path: path.count("."))
    linear = [path for path, module in with_parameters.items() if isinstance(module, nn.Linear)]
    if linear:
        return linear[-1]
    raise ProbeError(
        f"expected a module called {', '.join(_HEAD_NAMES)} or a linear layer, but {type(model).__name__} has no such "
        "head; rename its last layer to 'head', or use the tuning 'full'"
    )


def _tuning(mode: str, last_k: int | None) -> Tuning:
    tuning = parse_tuning(mode)
    if last_k is None:
        return tuning
    if tuning.mode != "last":
        raise ProbeError(f"expected the tuning 'last' with last_k={last_k}, got {mode!r}; leave last_k out")
    if mode != "last" and tuning.last_k != last_k:
        raise ProbeError(f"expected last_k={tuning.last_k} with {mode!r}, got last_k={last_k}; pass one of the two")
    return Tuning("last", _positive(last_k))


def _positive(last_k: int) -> int:
    if last_k < 1:
        raise ProbeError(f"expected at least 1 last block, got {last_k}; use the tuning 'head' to train no block")
    return last_k


def _head(model: nn.Module, _: Tuning) -> list[nn.Parameter]:
    return list(model.get_submodule(find_head(model)).parameters())


def _full(model: nn.Module, _: Tuning) -> list[nn.Parameter]:
    return list(model.parameters())


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a normalisation layer, by the name of its class.

    Args:
        module: A module.

    Returns:
        True for LayerNorm, BatchNorm, GroupNorm, RMSNorm and similar layers of any library.

    >>> is_norm(nn.LayerNorm(2)), is_norm(nn.BatchNorm2d(2)), is_norm(nn.Linear(2, 2))
    (True, True, False)
    """
    # Own parameters are required because containers such as torchvision's Conv2dNormActivation match by name.
    return any(True for _ in module.parameters(recurse=False)) and bool(
        re.search(r"(Layer|Batch|Group|Instance|RMS|Frozen\w*)_?Norm|Norm(\dd)?$", type(module).__name__, re.I)
    )


def _norms(model: nn.Module, tuning: Tuning) -> list[nn.Parameter]:
    norms = [module for module in model.modules() if is_norm(module)]
    if not norms:
        raise ProbeError(
            f"expected a normalisation layer with a scale or shift to train, but {type(model).__name__} has none; use "
            "another tuning, such as 'head' or 'last-2'"
        )
    return [p for norm in norms for p in norm.parameters(recurse=False)] + _head(model, tuning)


def _last(model: nn.Module, tuning: Tuning) -> list[nn.Parameter]:
    parameters = dict(model.named_parameters())
    groups = assign_groups(model, parameters, "block")
    blocks = list(dict.fromkeys(find_blocks(model).values()))
    wanted = tuning.last_k or 1
    if wanted > len(blocks):
        remedy = "use fewer" if blocks else "use head, norms or full, since no block was recognised by its name"
        raise ProbeError(
            f"expected {wanted} blocks for the tuning {str(tuning)!r}, but {type(model).__name__} has {len(blocks)}; "
            f"{remedy}"
        )
    last = {*blocks[-wanted:], "head"}
    return [parameters[name] for name, group in groups.items() if group.name in last] + _head(model, tuning)
