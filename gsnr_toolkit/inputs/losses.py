"""Per-sample losses: the caller's own, or the classification loss that the shape of the logits implies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.loss_forms import check_loss_fn, describe_batch, describe_output, explain_call
from gsnr_toolkit.types import Batch, PerSampleLoss

_TARGET_KEYS = ("labels", "label", "targets", "target", "y")


def split_inputs(batch: Batch) -> tuple[Any, Tensor]:
    """Split a batch into the model's inputs and the labels.

    Args:
        batch: ``(inputs, labels)`` or a mapping with one of the keys labels, label, targets, target, y.

    Returns:
        ``(inputs, labels)``; for a mapping, inputs are the remaining items.

    Raises:
        ProbeError: If the batch has neither form.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[0], _usual(batch[1])
    if isinstance(batch, Mapping):
        key = next((key for key in _TARGET_KEYS if isinstance(batch.get(key), Tensor)), None)
        if key is not None:
            return {name: value for name, value in batch.items() if name != key}, _usual(batch[key])
    raise ProbeError(
        f"expected a batch (inputs, labels), or a mapping with one of the keys {', '.join(_TARGET_KEYS)}, with labels "
        f"that are a tensor, got {describe_batch(batch)}; for any other form pass loss_fn(model, batch) -> (N,)"
    )


def _usual(labels: Tensor) -> Tensor:
    """Labels in a dtype that torch computes with; numpy's wider unsigned integers are not."""
    return labels.long() if labels.dtype in (torch.uint16, torch.uint32, torch.uint64) else labels


def logits_of(output: Any) -> Tensor:
    """Find the logits in a model's output.

    Returns:
        The tensor itself, or the ``logits`` of an output object or mapping.

    Raises:
        ProbeError: If the output holds no logits.
    """
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    raise ProbeError(
        f"expected the model to return logits (a tensor, or an output with .logits), got {describe_output(output)}; "
        "pass loss_fn(model, batch) -> (N,)"
    )


def rows_first(logits: Tensor, rows: int) -> Tensor:
    """Restore the sample dimension that ``model(x).squeeze()`` removes from a batch of one.

    Args:
        logits: The model's output for a batch of ``rows`` samples.
        rows: Number of samples.

    Returns:
        Logits with one row per sample. For one sample ``()`` becomes ``(1,)`` and ``(C,)`` becomes ``(1, C)``;
        anything else is returned unchanged.

    Raises:
        ProbeError: If several samples have a single number between them.

    >>> tuple(rows_first(torch.zeros(()), 1).shape), tuple(rows_first(torch.zeros(3), 1).shape)
    ((1,), (1, 3))
    """
    if rows == 1 and logits.shape[:1] != (1,):
        return logits.unsqueeze(0)
    if logits.ndim == 0:
        raise ProbeError(
            f"expected logits with one row per sample, got a single number for {rows} samples; use squeeze(-1) "
            "instead of squeeze() in the model, and no mean over the batch"
        )
    return logits


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy of each sample: binary for one logit, multi-class for several.

    Args:
        logits: ``(N,)`` or ``(N, 1)`` for binary, ``(N, C)`` for C classes.
        labels: ``(N,)`` (or ``(N, 1)``) classes in {0, 1} or probabilities for binary; ``(N,)`` class
            indices or ``(N, C)`` probabilities for C classes.

    Returns:
        Losses in nats, shape ``(N,)``.

    Raises:
        ProbeError: If the shapes fit no classification loss.

    >>> classification_loss(torch.zeros(2, 1), torch.tensor([0, 1]))
    tensor([0.6931, 0.6931])
    """
    shape = tuple(logits.shape)
    logits = rows_first(logits, labels.shape[0] if labels.ndim else 1)
    count = logits.shape[0]
    if logits.numel() == count and labels.numel() == count:
        target = labels.reshape(count).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits.reshape(count), target, reduction="none")
    if logits.ndim == 2 and (labels.ndim == 1 or labels.shape == logits.shape):
        target = labels if labels.ndim == 1 else labels.to(logits.dtype)
        return F.cross_entropy(logits, target.long() if labels.ndim == 1 else target, reduction="none")
    raise ProbeError(
        "expected logits (N,) or (N, 1) with labels (N,), or logits (N, C) with labels (N,), got logits "
        f"{shape} and labels {tuple(labels.shape)}; pass loss_fn(model, batch) -> (N,)"
    )


def model_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Run the model on a batch's inputs and return its logits; a mapping is passed as keyword arguments."""
    inputs, _ = split_inputs(batch)
    try:
        output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    except (TypeError, AttributeError) as error:
        explain_call(model, inputs, error)
        raise
    return logits_of(output)


def inferred_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Run the model and compute the classification loss that its logits imply.

    The values of the labels are not checked here, because a transform of ``torch.func`` cannot branch on values;
    :func:`check_labels` does that outside.

    Returns:
        Losses, shape ``(N,)``.
    """
    return classification_loss(model_logits(model, batch), split_inputs(batch)[1])


def check_labels(labels: Tensor, num_outputs: int) -> None:
    """Check that the inferred classification loss is meaningful for these labels.

    Shapes that fit no such loss are not reported here: :func:`classification_loss` reports them.

    Args:
        labels: Labels of a batch.
        num_outputs: Logits per sample: 1 for binary, C for C classes.

    Raises:
        ProbeError: If binary labels lie outside [0, 1], class indices are not integers from 0 to C - 1, or
            the rows of ``(N, C)`` labels are not probabilities.

    >>> check_labels(torch.tensor([0, 2, 1]), 3)
    >>> check_labels(torch.tensor([-1, 1]), 1)
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected labels 0 and 1 (or probabilities) for one logit per sample, got ...
    """
    if num_outputs == 1:
        _insist(
            _within(labels, 0, 1),
            labels,
            "labels 0 and 1 (or probabilities) for one logit per sample",
            "map them, with (labels + 1) // 2 from -1 and 1, or with labels - 1 from 1 and 2",
        )
    elif labels.ndim == 1:
        whole = not (labels.is_floating_point() or labels.is_complex())
        wanted = f"class indices 0 to {num_outputs - 1}, of an integer type, for {num_outputs} logits per sample"
        remedy = f"give the model {int(labels.max()) + 1} outputs" if whole and labels.numel() else "use labels.long()"
        _insist(whole and _within(labels, 0, num_outputs - 1), labels, wanted, f"{remedy}, or number classes from 0")
    elif labels.ndim == 2 and labels.shape[1] == num_outputs:
        sums = labels.double().sum(1)
        _insist(
            _within(labels, 0, 1) and torch.allclose(sums, torch.ones_like(sums), rtol=0, atol=1e-2),
            labels,
            f"probabilities that add up to 1 in each row of the {num_outputs} classes",
            "divide each row by its sum (several classes at once need another loss)",
        )


def _within(labels: Tensor, low: float, high: float) -> bool:
    return bool(((labels >= low) & (labels <= high)).all())


def _insist(good: bool, labels: Tensor, wanted: str, remedy: str) -> None:
    if good:
        return
    values = sorted(set(labels.flatten().tolist()))
    shown = f"{values[:6]}" if len(values) <= 6 else f"{values[0]} to {values[-1]}"
    raise ProbeError(
        f"expected {wanted}, got {labels.dtype} labels of shape {tuple(labels.shape)} with values {shown}; {remedy}, "
        "or pass loss_fn(model, batch) -> (N,)"
    )


def check_loss_shape(losses: Any, count: int) -> Tensor:
    """Check that a loss function returned one floating-point loss per sample.

    Returns:
        The losses, unchanged.

    Raises:
        ProbeError: If the losses are not a real tensor of shape ``(count,)``.
    """
    if not isinstance(losses, Tensor) or losses.shape != (count,) or not losses.is_floating_point():
        got = f"{losses.dtype} of shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else repr(type(losses))
        raise ProbeError(
            f"expected loss_fn(model, batch) to return one real loss per sample, shape ({count},), got {got}; "
            "use reduction='none' and average over every dimension but the first"
        )
    return losses


def resolve_loss(loss_fn: PerSampleLoss | None) -> PerSampleLoss:
    """Return the caller's loss, or the inferred classification loss if there is none: ``(model, batch) -> (N,)``."""
    if loss_fn is None:
        return inferred_loss
    check_loss_fn(loss_fn)
    return loss_fn


def binary_labels(batch: Batch) -> Tensor:
    """Read the labels of a batch as 0 and 1.

    Returns:
        Labels, shape ``(N,)``, as integers.

    Raises:
        ProbeError: If a label is neither 0 nor 1.
    """
    labels = split_inputs(batch)[1]
    if labels.numel() != labels.shape[0] or not torch.all((labels == 0) | (labels == 1)):
        raise ProbeError(
            f"expected binary labels 0 and 1, one per sample, got shape {tuple(labels.shape)} with values "
            f"{sorted(set(labels.flatten().tolist()))[:6]}; the readout reading needs a two-class problem"
        )
    return labels.reshape(-1).long()
