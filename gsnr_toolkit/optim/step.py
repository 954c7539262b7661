"""One SAM step on a batch that is split into micro-batches: m-sharpness, or accumulation of both gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.batches import batch_length, take_rows
from gsnr_toolkit.inputs.fields import FieldWatch
from gsnr_toolkit.inputs.losses import check_loss_shape, resolve_loss
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.optim.statistics import keep_running_stats
from gsnr_toolkit.types import Batch, PerSampleLoss


def sam_step(
    model: nn.Module,
    batch: Batch,
    loss_fn: PerSampleLoss | None,
    optimizer: SAM,
    micro_batch_size: int | None = None,
    *,
    sharpness: str = "batch",
    local_ascent: bool = False,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """Take one SAM step in the memory of a single micro-batch.

    Args:
        model: The model. If it is wrapped in DDP, gradients are exchanged once per backward over the batch.
        batch: The whole batch (of this process).
        loss_fn: ``(model, batch) -> (N,)``, possibly under ``torch.autocast``; None infers a classification loss.
        optimizer: Steps the model's parameters.
        micro_batch_size: Rows per forward pass; all when None. The last micro-batch may be shorter, and has less
            weight accordingly.
        sharpness: ``"batch"``: one ascent along the whole batch's gradient, as without micro-batches. ``"micro"``:
            each micro-batch ascends along its own gradient, and the SAM gradients are averaged (m-sharpness with
            m = ``micro_batch_size``); in DDP, each process then ascends on its own.
        local_ascent: In DDP, each process ascends along its own batch's gradient.
        scaler: The GradScaler; call its ``update()`` afterwards.

    Returns:
        Mean loss of the batch at the unperturbed weights, detached. Running statistics are updated at these weights
        only.

    Raises:
        ProbeError: If ``sharpness`` or ``micro_batch_size`` is out of range, or the loss is not one value per row.

    >>> model, batch = nn.Linear(3, 1), (torch.randn(8, 3), torch.randint(0, 2, (8,)))
    >>> loss = sam_step(model, batch, None, SAM(model, lr=0.1), micro_batch_size=2, sharpness="micro")
    >>> loss.shape, loss.requires_grad
    (torch.Size([]), False)
    """
    if sharpness not in ("batch", "micro"):
        raise ProbeError(f"expected sharpness to be 'batch' or 'micro', got {sharpness!r}; pass one of these")
    if micro_batch_size is not None and micro_batch_size < 1:
        raise ProbeError(
            f"expected micro_batch_size to be 1 or more, got {micro_batch_size}; leave it out for no split"
        )
    count = batch_length(batch)
    size = micro_batch_size or count
    if size < count:
        batch = FieldWatch().see(batch, count)
    cuts = [take_rows(batch, start, min(start + size, count)) for start in range(0, count, size)]
    work = _Work(model, resolve_loss(loss_fn), scaler, count)
    ddp = model if isinstance(model, DistributedDataParallel) else None
    if sharpness == "batch":
        return _whole(work, cuts, optimizer, ddp if local_ascent else None)
    return _each(work, cuts, optimizer, ddp)


class _Work:
    """Forward and backward over micro-batches; their gradients add up to the gradient of the batch's mean loss."""

    def __init__(
        self, model: nn.Module, loss_fn: PerSampleLoss, scaler: torch.amp.GradScaler | None, count: int
    ) -> None:
        self.model, self.loss_fn, self.scaler, self.count = model, loss_fn, scaler, count

    @torch.enable_grad()
    def backward(self, cut: Batch, *, divisor: int, exchange: bool = True) -> Tensor:
        """Add the gradient of ``losses.sum() / divisor``; return the sum of losses divided by the batch size."""
        with nullcontext() if exchange else self.unsynced():
            losses = check_loss_shape(self.loss_fn(self.model, cut), batch_length(cut))
            loss = losses.sum() / divisor
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        return losses.detach().sum() / self.count

    def all(self, cuts: Sequence[Batch]) -> Tensor:
        """Add the gradient of the whole batch, exchanged once between processes; return the mean loss."""
        last = len(cuts) - 1
        parts = [self.backward(cut, divisor=self.count, exchange=i == last) for i, cut in enumerate(cuts)]
        return torch.stack(parts).sum()

    def unsynced(self) -> AbstractContextManager[None]:
        """Return a block without exchange of gradients."""
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else nullcontext()


def _whole(work: _Work, cuts: Sequence[Batch], optimizer: SAM, local: DistributedDataParallel | None) -> Tensor:
    """Take one step with a single ascent along the gradient of all micro-batches."""
    passes: Iterator[AbstractContextManager[None]] = iter([nullcontext(), keep_running_stats(work.model)])

    def closure() -> Tensor:
        with next(passes):
            return work.all(cuts)

    return optimizer.step(closure, scaler=work.scaler, local_ascent=local)


def _each(work: _Work, cuts: Sequence[Batch], optimizer: SAM, ddp: DistributedDataParallel | None) -> Tensor:
    """Take one step with an ascent for each micro-batch."""
    if not any(optimizer.next_radii()):  # a plain step, without an ascent
        return _whole(work, cuts, optimizer, None)
    optimizer.zero_grad()
    held: list[tuple[Tensor, Tensor]] = []
    parts: list[Tensor] = []
    try:
        for index, cut in enumerate(cuts):
            rows = batch_length(cut)
            with optimizer.watching():
                parts.append(work.backward(cut, divisor=rows, exchange=False))
            loss = parts[-1] * work.count / rows  # of this micro-batch
            ascended = optimizer.perturbed(loss=loss, scaler=work.scaler, local_ascent=ddp)
            with ascended, keep_running_stats(work.model):
                # The backward adds to the sum so far, so that DDP exchanges the whole sum after the last micro-batch.
                for param, grad in held:
                    param.grad = grad
                work.backward(cut, divisor=work.count, exchange=index == len(cuts) - 1)
            if index < len(cuts) - 1:
                held = _take_gradients(optimizer)
    except BaseException:
        optimizer.restore()
        raise
    optimizer.second_step(scaler=work.scaler)
    return torch.stack(parts).sum()


def _take_gradients(optimizer: SAM) -> list[tuple[Tensor, Tensor]]:
    """Remove and return the gradients of all parameters."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    held = [(param, param.grad) for param in params if param.grad is not None]
    optimizer.zero_grad()
    return held
