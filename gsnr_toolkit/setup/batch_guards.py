"""Guards on batches, losses and gradients. Each error says what was expected, what came, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from gsnr_toolkit.errors import MixedSamplesError, NonDeterministicError, NonFiniteError, ProbeError
from gsnr_toolkit.gradients.taps.graph import Graph
from gsnr_toolkit.gradients.task import GradientTask
from gsnr_toolkit.inputs.batches import batch_length, move_batch, take_rows, tensors_of
from gsnr_toolkit.inputs.fields import FieldWatch
from gsnr_toolkit.inputs.loaders import draw_batches
from gsnr_toolkit.inputs.loss_forms import explained_loss
from gsnr_toolkit.inputs.losses import check_labels, inferred_loss, model_logits, rows_first, split_inputs
from gsnr_toolkit.inputs.modes import in_eval_mode
from gsnr_toolkit.inputs.options import ProbeOptions
from gsnr_toolkit.inputs.preserve import preserved_rng, random_state
from gsnr_toolkit.setup.few_rows import on_few_rows
from gsnr_toolkit.setup.loss_reading import LossReading
from gsnr_toolkit.types import Batch, Loader, Params

MIN_SAMPLES = 4
"""Fewest samples for the bias correction ``(n - 3) / (n - 1)``."""


def check_device(params: Params, batch: Batch) -> None:
    """Check that model and batch are on one device.

    Raises:
        ProbeError: If they are not.
    """
    model_devices = {param.device for param in params.values()}
    batch_devices = {tensor.device for tensor in tensors_of(batch)}
    if len(model_devices | batch_devices) > 1:
        raise ProbeError(
            f"expected model and batches on one device, got parameters on {_names(model_devices)} and the batch "
            f"on {_names(batch_devices)}; pass device=..., or move the model with model.to(...)"
        )


def _names(devices: Iterable[torch.device]) -> str:
    return ", ".join(sorted(str(device) for device in devices))


def loss_values(task: GradientTask, batch: Batch) -> Tensor:
    """Evaluate the losses, without a graph unless the model needs one (gradient penalties, hooks on tensors).

    Args:
        task: Model, parameters and loss.
        batch: A batch of N samples.

    Returns:
        Losses, shape ``(N,)``.

    Raises:
        RuntimeError: The model's own.
    """
    try:
        with torch.no_grad():
            return task.losses(task.params, batch)
    except RuntimeError as error:
        if not re.search(r"(does not|doesn't) require grad", str(error)):
            raise
        leaves = {name: value.detach().requires_grad_() for name, value in task.params.items()}
        with torch.enable_grad():
            return task.losses(leaves, batch).detach()


def check_deterministic(task: GradientTask, batch: Batch, seed: int) -> bool:
    """Evaluate one batch twice from one random state and check that the losses agree.

    Returns:
        Whether the model or the loss drew random numbers.

    Raises:
        NonDeterministicError: If they differ.
    """
    values = []
    for _ in range(2):
        with preserved_rng(seed=seed):
            before = random_state()
            values.append(loss_values(task, batch))
            drew = random_state() != before
    if not torch.allclose(values[0], values[1], rtol=1e-6, atol=1e-8, equal_nan=True):
        gap = (values[0] - values[1]).abs().max().item()
        raise NonDeterministicError(
            f"expected the same losses for the same batch and random state, got a difference of {gap:.3g}; look for "
            "state that survives a forward pass (counters, queues, running statistics) or a random generator of the "
            "model's own, and call model.eval()"
        )
    return drew


def check_independent(task: GradientTask, batch: Batch, seed: int) -> None:
    """Check that a sample's loss does not depend on the other samples of its batch.

    A model that draws random numbers is checked in eval mode instead. The check is skipped if the model draws them in
    eval mode too, or does not run in it.

    Raises:
        MixedSamplesError: If the loss of the first or the last sample changes when it is evaluated alone.
        ProbeError: If the model does not run on a single sample.
    """
    if batch_length(batch) < 2:
        return
    found = _together_and_alone(task, batch, seed)
    if found is None and any(module.training for module in task.model.modules()):
        with in_eval_mode(task.model), suppress(Exception):  # a model may return something else there
            found = _together_and_alone(task, batch, seed)
    if found is None:
        return
    together, alone = found
    if torch.allclose(together, alone, rtol=1e-3, atol=1e-4, equal_nan=True):
        return
    rounded = torch.allclose(together, alone, rtol=5e-2, atol=1e-4) and _is_half(task, batch)
    if not rounded:
        worst = int((together - alone).abs().nan_to_num(torch.inf).argmax())
        raise MixedSamplesError(
            "expected a loss per sample that does not depend on the rest of the batch, got "
            f"{together[worst].item():.6g} inside the batch and {alone[worst].item():.6g} alone for the "
            f"{('first', 'last')[worst]} sample; contrastive losses, batch statistics, losses divided by the batch's "
            "size and fields that do not come in the batch mix samples: rewrite loss_fn so that row i needs sample i "
            "only"
        )


def _together_and_alone(task: GradientTask, batch: Batch, seed: int) -> tuple[Tensor, Tensor] | None:
    """Losses of the first and the last sample in the batch, and of each alone; None where they depend on the seed."""
    with preserved_rng(seed=seed):
        together = loss_values(task, batch)
    with preserved_rng(seed=seed + 1):
        again = loss_values(task, batch)
    if not torch.equal(together, again):
        return None
    alone, count = [], batch_length(batch)
    for row in (0, count - 1):  # the first alone would meet the right entry even of a field that is not cut
        with preserved_rng(seed=seed), on_few_rows(lambda: loss_values(task, batch), count):
            # a model that skips layers at random skips the same ones
            alone.append(loss_values(task, take_rows(batch, row, row + 1)))
    return together[[0, count - 1]], torch.cat(alone)


def _is_half(task: GradientTask, batch: Batch) -> bool:
    """Whether anything between the parameters and the losses is in half precision, by autocast or by its own dtype."""
    leaves = {name: value.detach().requires_grad_() for name, value in task.params.items()}
    with preserved_rng(), torch.enable_grad():
        losses = task.losses(leaves, take_rows(batch, 0, 2))
    dtype = Graph(losses, leaves).coarsest() if losses.requires_grad else losses.dtype
    return torch.finfo(dtype).bits < 32


def check_finite(params: Params, losses: Tensor, batch_index: int, first_row: int = 0) -> None:
    """Check that losses and gradients are finite.

    Args:
        params: A tensor per parameter that is non-finite if any of its gradients is.
        losses: Losses of the batch.
        batch_index: Which batch, from 0.
        first_row: Which row of the batch the first loss belongs to.

    Raises:
        NonFiniteError: Names the first parameter and the batch.
    """
    if not torch.isfinite(losses).all():
        rows = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
        loss, row = losses[rows[0]].item(), first_row + rows[0]
        raise NonFiniteError(
            f"expected finite losses, got {loss} for sample {row} of batch {batch_index}; "
            "check that sample's input and label, the learning rate so far, and use float32 instead of half precision"
        )
    for name, tensor in params.items():
        if not torch.isfinite(tensor).all():
            raise NonFiniteError(
                f"expected finite gradients, got NaN or infinity first in {name!r} for batch {batch_index} although "
                "the losses are finite; look for sqrt(0), log(0) or a norm of zero behind that parameter"
            )


def check_classes(batches: list[Batch]) -> str | None:
    """Find out whether batches hold a single class.

    Returns:
        The class, as text, if all labels are integers of one value; None if there are several classes, or if
        the batches carry no readable labels.
    """
    seen: set[int] = set()
    for batch in batches:
        try:
            labels = split_inputs(batch)[1]
        except ProbeError:
            return None
        if labels.ndim > 1 and labels.numel() != labels.shape[0]:
            return None
        values = labels.flatten().tolist()
        if any(value != int(value) for value in values):
            return None
        seen.update(int(value) for value in values)
        if len(seen) > 1:
            return None
    return str(seen.pop()) if seen else None


def check_count(count: int) -> None:
    """Check that there are enough samples for an unbiased GSNR.

    Raises:
        ProbeError: If there are fewer than four.
    """
    if count < MIN_SAMPLES:
        raise ProbeError(
            f"expected at least {MIN_SAMPLES} samples (the bias correction divides by n - 3), got {count}; raise "
            "max_samples or give a larger loader: 256 samples resolve a GSNR of about 1/256 = 0.004"
        )


def checked_batches(
    task: GradientTask, options: ProbeOptions, loader: Loader, *, device: torch.device | None, reading: LossReading
) -> Iterator[Batch]:
    """Draw batches, check the first one and what all of them hold together.

    Args:
        task: Model, parameters and loss.
        options: For ``max_samples`` and the seed.
        loader: Yields batches.
        device: Move batches there; None leaves them where they are.
        reading: Is shown the first batch.

    Yields:
        Batches on the model's device.

    Raises:
        ProbeError: If the loader is empty, too short, of a single class or on another device, or if its labels do
            not fit the loss inferred from the logits.
    """
    inferred = task.loss_fn is inferred_loss
    count, classes, fields = 0, _ClassWatch(inferred), FieldWatch()
    outputs: int | None = None
    for index, drawn in enumerate(draw_batches(loader, options.max_samples)):
        batch = fields.see(drawn if device is None else move_batch(drawn, device), batch_length(drawn))
        if index == 0:
            check_device(task.params, batch)
            outputs = count_outputs(task, batch, options.seed) if inferred else None
        if outputs is not None:
            check_labels(split_inputs(batch)[1], outputs)
        if index == 0:
            reading.see(outputs, split_inputs(batch)[1] if inferred else torch.empty(0))
            with explained_loss(task.loss_fn, task.model):
                reading.draws = check_deterministic(task, batch, options.seed)
            check_independent(task, batch, options.seed)
        count += batch_length(batch)
        classes.see(batch)
        yield batch
    check_count(count)
    classes.check(count)


def count_outputs(task: GradientTask, batch: Batch, seed: int) -> int | None:
    """Run the model on up to two samples and count the logits of each.

    Args:
        task: Model, parameters and loss.
        batch: Any batch.
        seed: Random state of the run.

    Returns:
        Logits per sample; None if their shape fits no classification loss.
    """
    rows = take_rows(batch, 0, 2)
    count = batch_length(rows)
    seen: list[torch.Size] = []

    def watch(model: nn.Module, batch: Batch) -> torch.Tensor:
        length = batch_length(batch)
        seen.append(rows_first(model_logits(model, batch), length).shape)
        return torch.zeros(length)

    watched = replace(task, loss_fn=watch)
    with preserved_rng(seed=seed), on_few_rows(lambda: loss_values(watched, batch), batch_length(batch)):
        loss_values(watched, rows)
    shape = seen[0]
    return shape.numel() // count if shape[0] == count and len(shape) <= 2 else None


class _ClassWatch:
    """Remembers whether it has seen more than one class."""

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
