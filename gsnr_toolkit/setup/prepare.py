"""Everything that a measurement needs, checked and chosen before the first gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn

from gsnr_toolkit.gradients.task import Engine, GradientTask, trainable_params
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.device import find_device
from gsnr_toolkit.inputs.groups import Group, assign_groups
from gsnr_toolkit.inputs.loaders import keep_batches
from gsnr_toolkit.inputs.losses import resolve_loss
from gsnr_toolkit.inputs.options import ProbeOptions
from gsnr_toolkit.setup.batch_guards import checked_batches
from gsnr_toolkit.setup.distributed import current_ranks
from gsnr_toolkit.setup.engine_choice import choose_engine
from gsnr_toolkit.setup.loss_reading import LossReading
from gsnr_toolkit.setup.mini_batches import lowered_note, sam_batches
from gsnr_toolkit.setup.model_guards import check_batchnorm, check_precision, model_notes
from gsnr_toolkit.types import Batch, Loader, PerSampleLoss


@dataclass(frozen=True)
class Setup:
    """A checked model, the samples to measure it on, and the engine that can do it.

    Attributes:
        task: Model, parameters and loss: what the engines differentiate.
        groups: Parameter name to group.
        engine: Per-sample gradient engine.
        chunk_size: Samples whose gradients may be alive at the same time.
        options: Options of the measurement.
        device: Where the work is done.
        batches: Checked batches. With COR a list of SAM mini-batches; without it possibly an iterator, to be read once.
        count: Number of samples in ``batches``; None if it is known only after reading them.
        with_cor: Whether COR is measured besides GSNR.
        notes: Notes for the report.
        loss: Name of the loss.
    """

    task: GradientTask
    groups: dict[str, Group]
    engine: Engine
    chunk_size: int
    options: ProbeOptions
    device: torch.device
    batches: Iterable[Batch]
    count: int | None
    with_cor: bool
    notes: tuple[str, ...]
    loss: str


def prepare(
    model: nn.Module,
    loader: Loader,
    loss_fn: PerSampleLoss | None,
    options: ProbeOptions,
    device: str | torch.device | None,
    *,
    with_cor: bool,
) -> Setup:
    """Check the model and the first batch, choose the engine, and prepare the batches.

    Args:
        model: The model to measure; :func:`~gsnr_toolkit.setup.model_guards.check_model` has accepted it.
        loader: Yields batches.
        loss_fn: ``(model, batch) -> (N,)``, or None to infer a classification loss.
        options: Options of the measurement.
        device: Where to work; the model's device if None. The model itself is not moved.
        with_cor: Whether COR is measured besides GSNR.

    Returns:
        The complete setup.
    """
    check_batchnorm(model)
    task, target = _task_on_device(model, loss_fn, options, device)
    groups = assign_groups(model, task.params, options.groups)
    if with_cor:
        check_precision(task.params)
    reading = LossReading(task.loss_fn)
    checked = checked_batches(task, options, loader, device=None if device is None else target, reading=reading)
    first = next(checked)
    choice = choose_engine(task, options, first)
    batches, count = _arrange(chain([first], checked), loader, options, with_cor=with_cor)
    lowered = lowered_note(batches, first, options) if with_cor else ()
    return Setup(
        task=task,
        groups=groups,
        engine=choice.engine,
        chunk_size=choice.chunk_size,
        options=options,
        device=target,
        batches=batches,
        count=count,
        with_cor=with_cor,
        notes=(*lowered, *reading.notes, *model_notes(model, draws=reading.draws), *choice.notes),
        loss=reading.name,
    )


def _task_on_device(
    model: nn.Module, loss_fn: PerSampleLoss | None, options: ProbeOptions, device: str | torch.device | None
) -> tuple[GradientTask, torch.device]:
    # A readout head needs no parameter of the model, so a frozen encoder can be measured in that reading.
    frozen = options.layerwise == "readout" and not any(p.requires_grad for p in model.parameters())
    params = trainable_params(model, include_frozen=options.include_frozen or frozen)
    home = next(iter(params.values())).device
    target = home if device is None else find_device(device)
    constants = {}
    if target != home:  # copies stand in for all tensors of the model, which stays where it is
        named = chain(model.named_parameters(), model.named_buffers())
        constants = {name: value.detach().to(target) for name, value in named if name not in params}
        params = {name: value.to(target) for name, value in params.items()}
    return GradientTask(model, params, resolve_loss(loss_fn), constants), target


def _arrange(
    drawn: Iterator[Batch], loader: Loader, options: ProbeOptions, *, with_cor: bool
) -> tuple[Iterable[Batch], int | None]:
    """Batches in the form that the measurement needs, and the number of samples if it is known."""
    if with_cor:
        batches = sam_batches(keep_batches(drawn, loader, options.max_samples), options)
        return batches, _count(batches)
    count = _known_count(loader, options)
    if count is None and current_ranks().size > 1:
        # Ranks share the work by shard number, so all of them must know the size of a shard in advance.
        held = keep_batches(drawn, loader, options.max_samples)
        return held, _count(held)
    return drawn, count


def _count(batches: Iterable[Batch]) -> int:
    return sum(batch_length(batch) for batch in batches)


def _known_count(loader: Loader, options: ProbeOptions) -> int | None:
    """Number of samples that a loader will yield, if it can tell."""
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    try:
        count = _count(loader) if isinstance(loader, (list, tuple)) else len(sampler)  # type: ignore[arg-type]
    except TypeError:
        return None
    return count if options.max_samples is None else min(count, options.max_samples)
