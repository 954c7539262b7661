"""SAM optimizers for trials, like the one that the user trains with."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.support.arguments import shown

Recipe = Callable[[float], SAM]
"""Builds SAM of a radius on the model, with a fresh state."""

_NOT_COPIED = ("params", "param_names", "rho", "rho_max")


def sam_recipe(model: nn.Module, optimizer: Any, lr: float) -> Recipe:
    """Return a function that builds SAM of a given radius.

    Args:
        model: The model to train.
        optimizer: None for AdamW without weight decay; a function from parameter groups to an optimizer, such as a
            class; or an optimizer of the model, whose class, groups and options are copied.
        lr: Learning rate of the default.

    Returns:
        The function.

    Raises:
        ProbeError: If it is something else, or an optimizer of another model.
    """
    trainable = [param for param in model.parameters() if param.requires_grad]
    if not trainable:
        raise ProbeError(
            "expected at least one trainable parameter, got none; set requires_grad_(True) on what you would train"
        )
    if isinstance(optimizer, Optimizer):
        return _like(model, optimizer)
    if optimizer is None:
        return lambda rho: SAM(model, torch.optim.AdamW, rho=rho, lr=lr, weight_decay=0.0)
    if not callable(optimizer):
        raise ProbeError(
            f"expected optimizer to be an optimizer, or a function that builds one, got {shown(optimizer)}; pass "
            "lambda params: torch.optim.AdamW(params, lr=1e-4), for example"
        )
    return lambda rho: SAM(model, optimizer, rho=rho)


def _like(model: nn.Module, optimizer: Optimizer) -> Recipe:
    own = {id(param) for param in model.parameters()}
    if any(id(param) not in own for group in optimizer.param_groups for param in group["params"]):
        raise ProbeError(
            "expected an optimizer of the model's parameters, got one that holds others; build it on the model that "
            "you pass, or pass a function that builds it"
        )
    base: Optimizer = optimizer
    options: dict[str, Any] = {}
    if isinstance(optimizer, SAM):
        base = optimizer.base_optimizer
        options = {
            "adaptive": optimizer.adaptive, "adaptive_eta": optimizer.adaptive_eta, "perturb": optimizer._perturb
        }  # fmt: skip

    def make(rho: float) -> SAM:
        groups = [
            {"params": list(group["params"]), **{k: v for k, v in group.items() if k not in _NOT_COPIED}}
            for group in copy.deepcopy(base.param_groups, _themselves(base))
        ]
        return SAM(groups, lambda made: _fresh(base, made), rho=rho, model=model, **options)

    return make


def _fresh(base: Optimizer, groups: list[dict[str, Any]]) -> Optimizer:
    """Return an optimizer of the same class and options on these groups, without a state."""
    made = copy.deepcopy(base, _themselves(base))
    made.state = defaultdict(dict)
    made.param_groups = groups
    return made


def _themselves(base: Optimizer) -> dict[int, Any]:
    """Memo for a deep copy that shares parameters and copies no state."""
    memo: dict[int, Any] = {id(param): param for group in base.param_groups for param in group["params"]}
    memo[id(base.state)] = defaultdict(dict)
    return memo


def describe(recipe: Recipe) -> str:
    """Describe what a recipe builds: class, groups and options."""
    base = recipe(0.0).base_optimizer
    groups = [
        {k: v for k, v in group.items() if k not in _NOT_COPIED} | {"params": len(group["params"])}
        for group in base.param_groups
    ]
    return f"{type(base).__name__} {groups}"
