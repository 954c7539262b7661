"""Before a measurement: the task, the batches, the groups, and every guard that can fail early."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn

from gsnr_toolkit.gradients.select import make_engine
from gsnr_toolkit.gradients.task import Engine, GradientTask, trainable_params
from gsnr_toolkit.inputs.device import find_device
from gsnr_toolkit.inputs.groups import Group, assign_groups
from gsnr_toolkit.inputs.losses import resolve_loss
from gsnr_toolkit.inputs.options import ProbeOptions
from gsnr_toolkit.setup.model_guards import check_batchnorm, check_model
from gsnr_toolkit.types import PerSampleLoss


@dataclass(frozen=True)
class Setup:
    """A model and its batches, checked and ready to measure.

    Attributes:
        task: What the engines differentiate.
        groups: Parameter name to group.
        engine: What takes per-sample gradients; settled by :func:`settle_engine`.
        chunk_size: Samples whose gradients may be alive together.
        options: What was asked for.
        device: Where the work is done.
        notes: What a reader must know besides.
    """

    task: GradientTask
    groups: dict[str, Group]
    engine: Engine
    chunk_size: int
    options: ProbeOptions
    device: torch.device
    notes: tuple[str, ...]


def prepare(
    model: nn.Module, loss_fn: PerSampleLoss | None, options: ProbeOptions, device: str | torch.device | None
) -> Setup:
    """Resolve everything that does not need data.

    Args:
        model: The model as it is to be measured.
        loss_fn: ``(model, batch) -> (N,)``, or None to infer a classification loss.
        options: Checked options.
        device: Where to work; where the model is when None. The model itself is not moved.

    Returns:
        A setup.

    Raises:
        ProbeError: If the model is scripted, has nothing to train, or mixes samples, or there is no such device.
    """
    check_model(model)
    check_batchnorm(model)
    # readout heads need no parameter of the model's: a frozen encoder has a readout too
    frozen = options.layerwise == "readout" and not any(p.requires_grad for p in model.parameters())
    params = trainable_params(model, include_frozen=options.include_frozen or frozen)
    home = next(iter(params.values())).device
    target = home if device is None else find_device(device)
    constants = {}
    if target != home:
        named = chain(model.named_parameters(), model.named_buffers())
        constants = {name: value.detach().to(target) for name, value in named if name not in params}
        params = {name: value.to(target) for name, value in params.items()}
    task = GradientTask(model, params, resolve_loss(loss_fn), constants)
    return Setup(
        task=task,
        groups=assign_groups(model, params, options.groups),
        engine=make_engine("loop" if options.engine == "auto" else options.engine),
        chunk_size=1,
        options=options,
        device=target,
        notes=tuple(_notes(model)),
    )


def _notes(model: nn.Module) -> list[str]:
    dropping = [name for name, module in model.named_modules() if module.training and _drops(module)]
    notes = []
    if dropping:
        notes.append(
            f"dropout is active ({dropping[0]!r} and {len(dropping) - 1} more): its noise counts as gradient noise, "
            "with the same masks at every radius; call model.eval() to measure without it"
        )
    compiled = [
        name or "the model"
        for name, module in model.named_modules()
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
    ]
    if compiled:
        notes.append(f"compiled modules ({compiled[0]!r} and {len(compiled) - 1} more) were run uncompiled")
    return notes


def _drops(module: nn.Module) -> bool:
    """Whether a module drops entries, or (stochastic depth of timm and torchvision) whole branches, in train mode."""
    if type(module).__name__ in ("DropPath", "StochasticDepth"):
        return bool(getattr(module, "drop_prob", None) or getattr(module, "p", None))
    return isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p > 0
