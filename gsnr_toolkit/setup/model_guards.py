"""Guards on the model, before anything is saved or measured."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.types import Params


def check_model(model: nn.Module) -> None:
    """Refuse models that no gradient can be taken of, before anything is saved or measured.

    Args:
        model: The model in the state in which it is measured.

    Raises:
        ProbeError: If the model or a part of it is scripted, if parameters are uninitialised or were created in
            inference mode, or if inference mode or autocast is on.
    """
    scripted = [name or "the model" for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if scripted:
        raise ProbeError(
            f"expected modules that run in Python, got a scripted or traced one ({scripted[0]!r}); "
            "pass the model as it was before torch.jit"
        )
    if torch.is_inference_mode_enabled():
        raise ProbeError(
            "expected a call outside torch.inference_mode(), but it is on, so no gradient can be taken; leave that "
            "block (a probe changes no parameter, and torch.no_grad() around it is fine)"
        )
    casting = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    if casting:
        raise ProbeError(
            "expected autocast inside the model or loss_fn, got a probe called under "
            f"torch.autocast({casting[0]!r}), which would round sums over gradients too; put the autocast block "
            "into loss_fn(model, batch)"
        )
    named = list(chain(model.named_parameters(), model.named_buffers()))
    lazy = [name for name, value in named if is_lazy(value)]
    if lazy:
        raise ProbeError(
            f"expected parameters that hold values, got lazy ones without a shape yet ({lazy[0]!r} and "
            f"{len(lazy) - 1} more); run the model once on a batch, model(inputs), before the probe"
        )
    absent = [
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        for name, param in module._parameters.items()
        if param is not None and param.is_meta and (param.requires_grad or not hasattr(module, "_hf_hook"))
    ]
    if absent:
        raise ProbeError(
            f"expected parameters that hold values, got {absent[0]!r} on the meta device ({len(absent)} such: "
            "offloaded or not loaded yet); load the weights onto a device before the probe"
        )
    inference = [name for name, value in named if value.is_inference()]
    if inference:
        raise ProbeError(
            f"expected parameters that can be differentiated, got {inference[0]!r} made in torch.inference_mode() "
            f"({len(inference)} such); build or load the model outside of that block"
        )


def check_batchnorm(model: nn.Module) -> None:
    """Refuse batch normalisation by the batch's own statistics: a sample's gradient would depend on its batch.

    Raises:
        ProbeError: If there is any; names the first such layer.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    mixing = [name for name, module in norms.items() if module.training]
    if mixing:
        raise ProbeError(
            f"expected samples that do not influence each other, got batch normalisation in train mode "
            f"({mixing[0]!r} and {len(mixing) - 1} more); call model.eval() before the probe, or use GroupNorm"
        )
    bare = [name for name, module in norms.items() if module.running_mean is None and module.running_var is None]
    if bare:
        raise ProbeError(
            f"expected samples that do not influence each other, got batch normalisation without running statistics "
            f"({bare[0]!r} and {len(bare) - 1} more), which takes those of the batch in eval mode too; build it with "
            "track_running_stats=True, or use GroupNorm"
        )


def check_precision(params: Params) -> None:
    """Refuse COR in half precision.

    A small step would be rounded away there, and COR would come out too large: an error on the side that looks safe.

    Args:
        params: Parameters to perturb.

    Raises:
        ProbeError: If they are in half precision.
    """
    name, param = next(iter(params.items()))
    if param.element_size() < 4:
        raise ProbeError(
            f"expected parameters in float32 or float64 to measure COR, got {param.dtype} ({name!r}): small steps "
            "would be rounded away and COR come out too large; pass model.float()"
        )


def model_notes(model: nn.Module, *, draws: bool = False) -> list[str]:
    """Describe what a reader of the report must know about the model.

    Args:
        model: The model to measure.
        draws: Whether it, or the loss, draws random numbers.

    Returns:
        A note on active dropout or other random numbers, and one on compiled modules, where there are any.
    """
    named = [(name or "the model", module) for name, module in model.named_modules()]
    dropping = [name for name, module in named if module.training and _drops(module)]
    compiled = [
        name for name, module in named if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
    ]
    notes = []
    if dropping:
        notes.append(
            f"dropout is active ({dropping[0]!r} and {len(dropping) - 1} more): its noise counts as gradient noise, "
            "with the same masks at every radius; call model.eval() to measure without it"
        )
    elif draws:
        notes.append(
            "the model or loss_fn draws random numbers: their noise counts as gradient noise, with the same numbers at "
            "every radius; call model.eval(), or remove the draw, to measure without it"
        )
    if compiled:
        notes.append(f"compiled modules ({compiled[0]!r} and {len(compiled) - 1} more) were run uncompiled")
    return notes


def _drops(module: nn.Module) -> bool:
    """Whether a module in train mode drops entries, or whole branches (stochastic depth of timm and torchvision)."""
    if type(module).__name__ in ("DropPath", "StochasticDepth"):
        return bool(getattr(module, "drop_prob", None) or getattr(module, "p", None))
    return isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p > 0
