"""Parameter groups of an optimizer, and the parameters that SAM perturbs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.tuning import is_norm
from gsnr_toolkit.optim.margin import MarginRadius
from gsnr_toolkit.optim.rho import RadiusController, check_radius
from gsnr_toolkit.types import Params

Perturb: TypeAlias = str | Callable[[str, Tensor], bool]
"""``"all"``, ``"norms"``, or ``(name, parameter) -> bool``."""


def parameter_groups(params: Any) -> list[dict[str, Any]]:
    """Convert the user's parameters to parameter groups.

    Args:
        params: A module (its trainable parameters, with names), parameters, ``(name, parameter)`` pairs, or groups
            of either.

    Returns:
        New group dictionaries, with all options of the user's groups.

    Raises:
        ProbeError: If there is no parameter, or something else is given.
    """
    if isinstance(params, nn.Module):
        params = [(name, param) for name, param in params.named_parameters() if param.requires_grad]
    if isinstance(params, Tensor):
        params = [params]
    if not isinstance(params, Iterable) or isinstance(params, (str, Mapping)):
        raise ProbeError(
            f"expected a module, parameters, (name, parameter) pairs or groups, got {type(params).__name__}; pass the "
            "model"
        )
    given = list(params)
    if not given:
        raise ProbeError(
            "expected at least one parameter to train, got none; pass a module with trainable parameters, "
            "model.parameters() (not an exhausted iterator), or groups"
        )
    return [dict(group) for group in given] if isinstance(given[0], dict) else [{"params": given}]


def choose_perturbed(groups: Iterable[dict[str, Any]], perturb: Perturb, model: nn.Module | None) -> set[Tensor]:
    """Select the parameters that SAM's ascent step moves.

    Args:
        groups: An optimizer's parameter groups.
        perturb: See :data:`Perturb`.
        model: Identifies the parameters of normalisation layers, and names parameters that come without names.

    Returns:
        The parameters; a set of tensors compares them by identity.

    Raises:
        ProbeError: If the choice is unknown, needs a model or names that are missing, or selects nothing.
    """
    groups = list(groups)
    everything = [param for group in groups for param in group["params"]]
    if callable(perturb):
        names = _names(groups, model)
        chosen = {param for param in everything if perturb(names[param], param)}
    elif perturb == "all":
        chosen = set(everything)
    elif perturb == "norms":
        if model is None:
            raise ProbeError(
                "expected the model with perturb='norms' (a parameter does not know its layer), got none; pass the "
                "model instead of its parameters, or model=model"
            )
        norms = {param for module in model.modules() if is_norm(module) for param in module.parameters(recurse=False)}
        chosen = {param for param in everything if param in norms}
    else:
        raise ProbeError(
            f"expected perturb to be 'all', 'norms' or a function (name, parameter) -> bool, got {perturb!r}; pass one "
            "of these"
        )
    if not chosen:
        raise ProbeError(
            f"expected perturb={perturb!r} to select at least one of {len(everything)} parameters, got none; "
            "use rho=0 for steps without a perturbation"
        )
    return chosen


def ascent_set(
    groups: Iterable[dict[str, Any]], radii: Iterable[float], chosen: set[Tensor]
) -> tuple[Params, Params, dict[str, float]]:
    """Collect the parameters that an ascent moves, with their gradients and radii.

    Args:
        groups: An optimizer's parameter groups.
        radii: The radius of each group; groups with radius 0 are skipped.
        chosen: Parameters that may be moved.

    Returns:
        Parameters with a gradient, their gradients, and their radii, each by a unique key. The radius is negative in
        a group that maximises its objective: the sharp direction then lies downhill.
    """
    params: Params = {}
    gradient: Params = {}
    rho: dict[str, float] = {}
    for g, (group, radius) in enumerate(zip(groups, radii, strict=True)):
        for i, param in enumerate(group["params"] if radius > 0 else ()):
            if param.grad is None or param not in chosen:
                continue
            key = f"{g}.{i}"
            params[key], rho[key] = param, -radius if group.get("maximize") else radius
            gradient[key] = param.grad.to_dense() if param.grad.is_sparse else param.grad
    return params, gradient, rho


def check_group_radii(groups: Iterable[dict[str, Any]], controller: RadiusController | None) -> None:
    """Check the radii of parameter groups; under ``rho="auto"`` each becomes the largest radius of its group.

    Args:
        groups: The user's groups.
        controller: What sets the radius of all groups, if anything.

    Raises:
        ProbeError: If a group's rho is out of range, or a controller would overwrite it.
    """
    for group in groups:
        if "rho" not in group:
            continue
        check_radius(group["rho"], "a group's rho")
        if isinstance(controller, MarginRadius):
            group["rho_max"] = group.pop("rho")
        elif controller is not None:
            raise ProbeError(
                f"expected groups without rho under a radius controller, got rho={group['rho']!r}; remove it, or "
                "exclude parameters from the ascent with perturb=function(name, parameter)"
            )


def make_base(base: Callable[..., Optimizer], groups: list[dict[str, Any]], options: dict[str, Any]) -> Optimizer:
    """Build the base optimizer, which takes the step.

    Args:
        base: An optimizer class, or a function from parameter groups to an optimizer.
        groups: Parameter groups, which the base optimizer keeps as its own.
        options: Options of the base optimizer.

    Returns:
        The base optimizer.

    Raises:
        ProbeError: If ``base`` is an instance or builds no optimizer, or the optimizer needs a closure.
    """
    if isinstance(base, Optimizer):
        name = type(base).__name__
        raise ProbeError(
            f"expected an optimizer class or a function that builds one, got an instance of {name}; pass "
            f"torch.optim.{name} and its options, SAM(params, torch.optim.{name}, lr=...)"
        )
    if not callable(base):
        raise ProbeError(
            f"expected an optimizer class or a function that builds one, got {base!r}; pass a class such as "
            "torch.optim.AdamW, SAM(params, torch.optim.AdamW, lr=...)"
        )
    made = base(groups, **options)
    if not isinstance(made, Optimizer):
        raise ProbeError(
            f"expected a base optimizer that is a torch.optim.Optimizer, got {type(made).__name__}; let the function "
            "return the optimizer that it builds"
        )
    if isinstance(made, LBFGS):
        raise ProbeError(
            "expected a base optimizer that steps from one gradient, got LBFGS, which evaluates the loss itself; "
            "use torch.optim.SGD, AdamW or another"
        )
    return made


def _names(groups: list[dict[str, Any]], model: nn.Module | None) -> dict[Tensor, str]:
    """Name of every parameter of the groups."""
    known: dict[Tensor, str] = {} if model is None else {param: name for name, param in model.named_parameters()}
    for group in groups:
        known.update(zip(group["params"], group.get("param_names", ()), strict=False))
    missing = sum(param not in known for group in groups for param in group["params"])
    if missing:
        raise ProbeError(
            f"expected parameters with names for perturb=function(name, parameter), got {missing} without; pass the "
            "model, model.named_parameters(), or model=model"
        )
    return known
