"""Share a measurement between processes and merge their results.

Every process draws the same samples. Process ``s mod W`` computes shard s, and process ``k mod W`` computes SAM's
mini-batch k. Shards are the same blocks of samples for any number W of processes, so the merged result equals that of
one process up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed, nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.task import AnyMoments
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.moments.shards import ShardCollector
from gsnr_toolkit.types import Floats, Params


@dataclass(frozen=True)
class Ranks:
    """Rank and world size of this process.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    def owner(self, index: int) -> int:
        """Return the rank that computes the shard or mini-batch of this number."""
        return index % self.size


def current_ranks() -> Ranks:
    """Return the rank and world size of this process.

    Returns:
        Rank 0 of 1, unless ``torch.distributed`` is initialised.

    >>> current_ranks()
    Ranks(rank=0, size=1)
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return Ranks()
    return Ranks(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def launched_group(device: str | None = None) -> Iterator[Ranks]:
    """Join the process group if ``torchrun`` started this process, and leave it at the end.

    Args:
        device: Where to work: GPUs communicate by ``nccl``, the CPU by ``gloo``.

    Yields:
        Rank and world size of this process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or distributed.is_initialized():
        yield current_ranks()
        return
    on_gpu = torch.cuda.is_available() and (device is None or device.startswith("cuda"))
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield current_ranks()
    finally:
        distributed.destroy_process_group()


def unwrapped(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the module inside data-parallel wrappers or ``torch.compile``; it shares parameters and buffers with them.

    A data-parallel forward needs the other processes. A compiled forward is fused and hides the operations that
    ``taps`` follows.

    Args:
        model: Any module.

    Returns:
        The innermost module, and notes for the report.

    Raises:
        ProbeError: If it is not a module, or its parameters are sharded between processes.

    >>> unwrapped(torch.compile(nn.Linear(2, 1), backend="eager"))
    (Linear(in_features=2, out_features=1, bias=True), ('compiled model: its uncompiled module was measured',))
    """
    notes: tuple[str, ...] = ()
    if not isinstance(model, nn.Module):
        raise ProbeError(
            f"expected a torch.nn.Module, got {type(model).__name__}; wrap a function in a module, or pass the model "
            "itself"
        )
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
            continue
        inner = getattr(model, "_orig_mod", None)  # not by its class, which would import the compiler
        if not isinstance(inner, nn.Module):
            break
        model, notes = inner, ("compiled model: its uncompiled module was measured",)
    sharded = [name for name, param in model.named_parameters() if hasattr(param, "device_mesh")]
    if sharded or type(model).__name__ == "FullyShardedDataParallel":
        where = f"{sharded[0]!r} is a DTensor" if sharded else "FullyShardedDataParallel"
        raise ProbeError(
            f"expected every process to hold whole parameters, got sharded ones ({where}), but the gradient of a "
            "sample needs all of them; load the full state_dict into an unsharded copy of the model and measure that"
        )
    return model, notes


def broadcast_model(model: nn.Module, ranks: Ranks) -> None:
    """Copy the parameters and buffers of rank 0 to every process, in place."""
    if ranks.size == 1:
        return
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(from_rank(tensor.detach(), 0))


def from_rank(tensor: Tensor, source: int) -> Tensor:
    """Send a tensor from one rank to all processes.

    Args:
        tensor: The tensor to send; on other ranks any tensor of the same shape and dtype.
        source: Rank that sends.

    Returns:
        The values of the source, on the device of ``tensor``.
    """
    moved = _on_backend(tensor).contiguous()
    moved = moved.clone() if moved.data_ptr() == tensor.data_ptr() else moved
    distributed.broadcast(moved, source)
    return moved.to(tensor.device)


def summed(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes; the sum is on the tensor's device."""
    moved = _on_backend(tensor).clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(moved)
    return moved.to(tensor.device)


def _on_backend(tensor: Tensor) -> Tensor:
    return tensor.to("cuda") if distributed.get_backend() == "nccl" else tensor.cpu()


def merge_moments(moments: AnyMoments, params: Params, ranks: Ranks) -> None:
    r"""Merge the moments of all processes, in place; the result is the same in every process.

    With counts :math:`n_r`: :math:`\bar g = \sum_r n_r \bar g_r / n`,
    :math:`M = \sum_r M_r + n_r (\bar g_r - \bar g)^2` (Chan et al.).

    Args:
        moments: Moments of this process; may be empty.
        params: All parameters.
        ranks: Rank and world size of this process.
    """
    counts = summed(torch.tensor([moments.count if ranks.rank == r else 0 for r in range(ranks.size)]))
    total, own = int(counts.sum()), moments.count
    for name, param in params.items():
        moments.place(name, param)
        held = moments.mean[name]
        mean = summed(held * (own / total))
        gap = held - mean
        if isinstance(moments, Moments):
            moments.m2[name] = summed(moments.m2[name] + own * gap.square())
        else:
            spread = moments.squares[name] + own * float(gap.double().square().sum())
            moments.squares[name] = float(summed(torch.tensor(spread, dtype=torch.float64)))
        moments.mean[name] = mean
    moments.count = total


def share_shards(collector: ShardCollector, number: int, ranks: Ranks) -> None:
    """Give every process all finished shards, in the order of the samples.

    Args:
        collector: Holds the shards of this process; afterwards those of all processes.
        number: Number of shards in all processes.
        ranks: Rank and world size of this process.
    """
    own = iter(collector.packed())
    packed = [next(own) if ranks.owner(s) == ranks.rank else collector.empty_pack() for s in range(number)]
    received = [[from_rank(part, ranks.owner(s)) for part in parts] for s, parts in enumerate(packed)]
    collector.unpack(received)


def share_losses(losses: dict[int, Tensor], count: int, ranks: Ranks) -> Floats:
    """Collect the losses of all samples, in order.

    Args:
        losses: Losses of consecutive samples in this process, by the number of the first of them.
        count: Number n of samples.
        ranks: Rank and world size of this process.

    Returns:
        Shape ``(n,)``.
    """
    joined = torch.zeros(count, dtype=torch.float64)
    for first, values in losses.items():
        joined[first : first + len(values)] = values.double().cpu()
    return np.asarray((summed(joined) if ranks.size > 1 else joined).numpy())
