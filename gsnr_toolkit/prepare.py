"""Before a measurement: the task, the batches, the groups, and every guard that can fail early."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gsnr_toolkit.batches import batch_length, move_batch, rebatch, take_rows
from gsnr_toolkit.checks import (
    check_batchnorm,
    check_classes,
    check_count,
    check_deterministic,
    check_device,
    check_independent,
    draw_batches,
    loss_values,
)
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.functional import Engine, GradientTask, trainable_params
from gsnr_toolkit.gradients.select import make_engine
from gsnr_toolkit.groups import Group, assign_groups
from gsnr_toolkit.losses import check_labels, inferred_loss, model_logits, resolve_loss, rows_first, split_inputs
from gsnr_toolkit.options import ProbeOptions
from gsnr_toolkit.preserve import preserved_rng
from gsnr_toolkit.types import Batch, Loader, PerSampleLoss

MIN_BATCHES = 4
PREFERRED_BATCHES = 8
MAX_BATCHES = 64
"""Most mini-batches that enter COR; more are used for GSNR only."""


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


def find_device(name: str | int | torch.device) -> torch.device:
    """Resolve a device, and make sure that this machine has it.

    Args:
        name: Such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Returns:
        The device, with its index.

    Raises:
        ProbeError: If there is no such device.

    >>> find_device("cpu")
    device(type='cpu')
    """
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProbeError(
            f"expected a device of this machine, got {name!r} ({reason}); use device='cpu' (--device cpu)"
        ) from error


def check_model(model: nn.Module) -> None:
    """Refuse what no gradient can be taken of, before anything is saved or measured.

    Args:
        model: The model as it is to be measured.

    Raises:
        ProbeError: If the model or a part of it is scripted, has parameters that are not made yet or were made in
            inference mode, or inference mode or autocast is on.
    """
    scripted = [name or "the model" for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if scripted:
        raise ProbeError(
            f"expected modules that run in Python, got a scripted or traced one ({scripted[0]!r}); "
            "pass the model as it was before torch.jit"
        )
    if torch.is_inference_mode_enabled():
        raise ProbeError(
            "expected to be called where gradients can be taken, but torch.inference_mode() is on; leave that block (a "
            "probe changes no parameter, and torch.no_grad() around it is fine)"
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
    inference = [name for name, value in named if value.is_inference()]
    if inference:
        raise ProbeError(
            f"expected parameters that can be differentiated, got {inference[0]!r} made in torch.inference_mode() "
            f"({len(inference)} such); build or load the model outside of that block"
        )


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


def checked_batches(setup: Setup, loader: Loader, *, move: bool) -> Iterator[Batch]:
    """Draw batches, with guards on the first and on the whole.

    Args:
        setup: What to measure.
        loader: Where batches come from.
        move: Whether the caller named a device, so that batches are moved there.

    Yields:
        Batches on the model's device.

    Raises:
        ProbeError: If the loader is empty, too short, of one class, or on another device, or its labels do not
            fit the loss inferred from the logits.
    """
    inferred = setup.task.loss_fn is inferred_loss
    options, count, classes = setup.options, 0, _ClassWatch(inferred)
    outputs: int | None = None
    for index, drawn in enumerate(draw_batches(loader, options.max_samples)):
        batch = move_batch(drawn, setup.device) if move else drawn
        if index == 0:
            check_device(setup.task.params, batch)
            outputs = count_outputs(setup, batch) if inferred else None
        if outputs is not None:
            check_labels(split_inputs(batch)[1], outputs)
        if index == 0:
            check_deterministic(setup.task, batch, options.seed)
            check_independent(setup.task, batch, options.seed)
        count += batch_length(batch)
        classes.see(batch)
        yield batch
    check_count(count)
    classes.check(count)


def count_outputs(setup: Setup, batch: Batch) -> int | None:
    """Run the model on up to two samples and count the logits of each.

    Args:
        setup: What to measure.
        batch: Any batch.

    Returns:
        Logits per sample; None where their shape fits no classification loss.
    """
    rows = take_rows(batch, 0, 2)
    count = batch_length(rows)
    seen: list[torch.Size] = []

    def watch(model: nn.Module, batch: Batch) -> torch.Tensor:
        seen.append(rows_first(model_logits(model, batch), count).shape)
        return torch.zeros(count)

    with preserved_rng(seed=setup.options.seed):
        loss_values(replace(setup.task, loss_fn=watch), rows)
    shape = seen[0]
    return shape.numel() // count if shape[0] == count and len(shape) <= 2 else None


class _ClassWatch:
    """Remembers whether more than one class came by."""

    def __init__(self, active: bool) -> None:
        self.active = active
        self.only: str | None = None

    def see(self, batch: Batch) -> None:
        if not self.active:
            return
        found = check_classes([batch])
        self.active = found is not None and self.only in (None, found)
        self.only = found

    def check(self, count: int) -> None:
        if self.active and self.only is not None:
            raise ProbeError(
                f"expected samples of at least two classes, got class {self.only} for all {count} samples; shuffle the "
                "loader (sorted folders yield one class first), raise max_samples, or pass loss_fn if one is meant"
            )


def sam_batches(batches: list[Batch], options: ProbeOptions) -> list[Batch]:
    """Regroup batches to SAM's mini-batch size.

    Args:
        batches: Batches as drawn.
        options: ``batch_size`` decides; when None, the first batch's size, lowered until there are eight
            mini-batches.

    Returns:
        Mini-batches of one size; a shorter last one comes along (GSNR uses it, COR does not).

    Raises:
        ProbeError: If fewer than four full mini-batches can be made.
    """
    total = sum(batch_length(batch) for batch in batches)
    size = options.batch_size or max(1, min(batch_length(batches[0]), total // PREFERRED_BATCHES))
    if total // size < MIN_BATCHES:
        raise ProbeError(
            f"expected at least {MIN_BATCHES} mini-batches for COR's interval, got {total // size} of {size} from "
            f"{total} samples; lower batch_size to at most {total // MIN_BATCHES} or give more samples"
        )
    return list(rebatch(batches, size))


def full_batches(batches: list[Batch]) -> list[Batch]:
    """Keep the mini-batches that enter COR.

    Returns:
        Those of full size, at most :data:`MAX_BATCHES`.
    """
    size = batch_length(batches[0])
    return [batch for batch in batches if batch_length(batch) == size][:MAX_BATCHES]
