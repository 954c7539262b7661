"""The loss of the plateau: that of the best constant prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.criterion import Call, CriterionWatch, best_constant
from gsnr_toolkit.inputs.loaders import draw_batches
from gsnr_toolkit.inputs.losses import resolve_loss
from gsnr_toolkit.inputs.preserve import preserved_model, preserved_rng
from gsnr_toolkit.support.arguments import COUNT, FUNCTION, LOADER, check_arguments, instance, optional, shown
from gsnr_toolkit.types import Batch, Loader, PerSampleLoss

__all__ = ["plateau_loss", "plateau_of_calls", "plateau_of_losses"]

_REMEDY = "pass plateau_loss=number, the loss of the best constant prediction"
_MODEL = instance(nn.Module, "a model", "pass the torch module that is trained")
_AGREE = 0.01
"""The loss of a step is taken for that of the calls if the two differ by less than this share."""


def plateau_loss(
    data: Loader | Tensor | Sequence[float],
    loss_fn: Any = None,
    *,
    model: nn.Module | None = None,
    max_samples: int = 4096,
) -> float:
    r"""Compute the loss of the best constant prediction, the plateau on which training begins.

    .. math:: L_0 = \min_c \frac{1}{N} \sum_i \ell(c, y_i)

    It is the entropy of the class shares for the cross-entropy, the entropy of the mean label for probabilities, the
    sum of both kinds over several labels, and the variance of the targets for the squared error. For every other loss
    the minimum is found numerically. It is biased downwards by about (K - 1) / (2 N) nats for K classes.

    Args:
        data: The training labels; or a loader of training batches, with the model.
        loss_fn: With labels, a loss of outputs and targets, such as ``F.mse_loss`` or ``nn.BCEWithLogitsLoss()``; None
            for the cross-entropy. With a loader, ``(model, batch) -> (N,)``, which calls losses of
            ``torch.nn.functional``; None infers a classification loss.
        model: The model, if ``data`` is a loader. It is run without gradients and left as it was.
        max_samples: Samples to take from a loader at most.

    Returns:
        The loss per sample, in the unit of the loss (nats for the cross-entropy).

    Raises:
        ProbeError: If it cannot be told from the arguments, or is not a positive number, as with a single class.

    >>> import torch.nn.functional as F
    >>> round(plateau_loss(torch.tensor([0, 1, 1, 0])), 4)  # ln 2
    0.6931
    >>> plateau_loss(torch.tensor([1.0, 2.0, 3.0, 4.0]), F.mse_loss)
    1.25
    """
    check_arguments(
        max_samples=(max_samples, COUNT), loss_fn=(loss_fn, optional(FUNCTION)), model=(model, optional(_MODEL))
    )
    labels = _as_labels(data)
    if labels is not None:
        return _positive(_of_labels(labels, loss_fn))
    if model is None:
        raise ProbeError(
            f"expected labels, or a loader with its model, got {shown(data)} alone; pass model=model, or the labels as "
            "a tensor"
        )
    check_arguments(data=(data, LOADER))
    return _positive(_of_loader(model, data, resolve_loss(loss_fn), max_samples))


def plateau_of_calls(calls: Sequence[Call], loss: float) -> float:
    """Compute the loss of the best constant prediction from the losses that were called to compute a loss.

    Args:
        calls: The calls, of one or several steps.
        loss: What the steps had for their mean loss. Calls of one kind are taken for micro-batches, whose mean it is;
            those of several kinds for terms, whose sum it is.

    Returns:
        The plateau's loss.

    Raises:
        ProbeError: If the calls do not explain the loss.

    >>> import torch.nn.functional as F
    >>> with CriterionWatch() as watch:
    ...     loss = F.mse_loss(torch.zeros(2, requires_grad=True), torch.tensor([0.0, 2.0]))
    >>> plateau_of_calls(watch.calls, loss.item())
    1.0
    """
    kinds: dict[Any, list[Call]] = {}
    for call in calls:
        kinds.setdefault(call.kind, []).append(call)
    means = [sum(c.value * c.rows for c in of) / sum(c.rows for c in of) for of in kinds.values()]
    if not calls:
        raise ProbeError(f"expected a loss of torch.nn.functional, got none in the step; {_REMEDY}")
    if not math.isclose(sum(means), loss, rel_tol=_AGREE, abs_tol=1e-6):
        names = ", ".join(dict.fromkeys(call.function.__name__ for call in calls))
        raise ProbeError(
            f"expected a loss that is the mean of {names}, {sum(means):.4g}, got {loss:.4g}, so that the loss of the "
            f"best constant prediction is not known; {_REMEDY} (gsnr_toolkit.plateau_loss computes it from labels), or "
            "let the closure return the mean loss, unscaled"
        )
    return sum(best_constant(of) for of in kinds.values())


def _as_labels(data: Any) -> Tensor | None:
    """Labels as a tensor; None for a loader."""
    if isinstance(data, Tensor):
        return data.detach().cpu()
    if isinstance(data, np.ndarray) or (isinstance(data, Sequence) and data and isinstance(data[0], (int, float))):
        return torch.as_tensor(data)
    return None


def _of_labels(labels: Tensor, criterion: Any) -> float:
    if not labels.ndim or not labels.numel():
        raise ProbeError(f"expected one label per sample, got shape {tuple(labels.shape)}; pass all training labels")
    if criterion is None:
        return _entropy(labels)
    targets = labels if labels.is_floating_point() else labels.long()
    with CriterionWatch(trained=False) as watch, torch.no_grad():
        criterion(*_zero_outputs(targets))
    if len(watch.calls) != 1:
        raise ProbeError(
            f"expected a loss of outputs and targets that torch.nn.functional has, got {shown(criterion)}; pass "
            "F.cross_entropy, F.mse_loss or the like"
        )
    return best_constant(watch.calls)


def _zero_outputs(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of zeros for targets: one more dimension, of classes, for class indices."""
    if targets.is_floating_point():
        return torch.zeros_like(targets), targets
    classes = int(targets.max()) + 1
    return torch.zeros(targets.shape[0], classes, *targets.shape[1:]), targets


def _entropy(labels: Tensor) -> float:
    """Entropy of class shares; of the mean label for probabilities."""
    if not labels.is_floating_point():
        _, counts = labels.reshape(-1).unique(return_counts=True)
        shares = counts.double() / counts.sum()
    elif labels.ndim == 2 and labels.shape[1] > 1:
        shares = labels.double().mean(0)
    else:
        share = labels.double().mean()
        shares = torch.stack([share, 1 - share])
    whole = bool((labels >= 0).all()) and math.isclose(float(shares.sum()), 1, abs_tol=1e-2)
    if not whole or bool((shares < 0).any()):
        raise ProbeError(
            f"expected class indices or probabilities, got {labels.dtype} labels from {labels.min():.4g} to "
            f"{labels.max():.4g}; pass the loss too, such as loss_fn=F.mse_loss"
        )
    return float(torch.special.entr(shares).sum())


def plateau_of_losses(losses_of: Callable[[Batch], Tensor], batches: Iterable[Batch]) -> float:
    """Compute the loss of the best constant prediction from a function that computes per-sample losses.

    Args:
        losses_of: Losses of a batch, shape ``(N,)``; called without gradients.
        batches: The batches.

    Returns:
        The plateau's loss.

    Raises:
        ProbeError: If the calls of ``torch.nn.functional`` do not explain the losses.
    """
    calls: list[Call] = []
    total = rows = 0.0
    with torch.no_grad():
        for batch in batches:
            with CriterionWatch(trained=False) as watch:
                losses = losses_of(batch)
            calls += watch.calls
            total, rows = total + float(losses.double().sum()), rows + batch_length(batch)
    return plateau_of_calls(calls, total / rows)


def _of_loader(model: nn.Module, loader: Loader, loss_fn: PerSampleLoss, max_samples: int) -> float:
    with preserved_rng(loader), preserved_model(model):
        return plateau_of_losses(lambda batch: loss_fn(model, batch), draw_batches(loader, max_samples))


def _positive(loss: float) -> float:
    if math.isfinite(loss) and loss > 1e-6:
        return loss
    raise ProbeError(
        f"expected labels that a constant prediction cannot match, got a loss of {loss:.3g} for the best one; check "
        "that the labels are of more than one class, and not all equal"
    )
