"""Several processes, one answer: shards of samples are dealt out, and what they found is merged.

Every process draws the same samples. Shard s belongs to process ``s mod W``, and so does SAM mini-batch k. The
shards are the same blocks of samples whatever the number W of processes, so the merged result is that of one
process up to rounding.
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
    """This process among its kind.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    def owner(self, index: int) -> int:
        """Which process takes the shard or batch of a number."""
        return index % self.size


def current_ranks() -> Ranks:
    """Find out whether there are other processes.

    Returns:
        One of one, unless ``torch.distributed`` was initialised.

    >>> current_ranks()
    Ranks(rank=0, size=1)
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return Ranks()
    return Ranks(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def launched_group(device: str | None = None) -> Iterator[Ranks]:
    """Join the process group when started by ``torchrun``, and leave it at the end.

    Args:
        device: Where the work is to be done; ``gloo`` serves the CPU, ``nccl`` GPUs.

    Yields:
        This process among its kind.
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
    """The module inside wrappers, data-parallel or of ``torch.compile``: parameters and buffers are the same objects.

    A wrapped forward needs other processes, or is a fused one without the operations that ``taps`` follows.

    Args:
        model: Any module.

    Returns:
        The module itself, or the innermost one, and what a reader must know.

    Raises:
        ProbeError: If parameters are sharded over processes.

    >>> unwrapped(torch.compile(nn.Linear(2, 1), backend="eager"))
    (Linear(in_features=2, out_features=1, bias=True), ('compiled model: its uncompiled module was measured',))
    """
    notes: tuple[str, ...] = ()
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
            f"expected every process to hold whole parameters, got sharded ones ({where}); a sample's gradient needs "
            "all of them at once: load the full state_dict into an unsharded copy of the model and measure that"
        )
    return model, notes


def broadcast_model(model: nn.Module, ranks: Ranks) -> None:
    """Give every process the first one's parameters and buffers, in place."""
    if ranks.size == 1:
        return
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(from_rank(tensor.detach(), 0))


def from_rank(tensor: Tensor, source: int) -> Tensor:
    """Send a tensor to all processes.

    Args:
        tensor: What the source sends; elsewhere a tensor of the same shape and dtype.
        source: Which process sends.

    Returns:
        The source's values, on the tensor's device.
    """
    moved = _on_backend(tensor).contiguous()
    moved = moved.clone() if moved.data_ptr() == tensor.data_ptr() else moved
    distributed.broadcast(moved, source)
    return moved.to(tensor.device)


def summed(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes.

    Returns:
        The sum, on the tensor's device.
    """
    moved = _on_backend(tensor).clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(moved)
    return moved.to(tensor.device)


def _on_backend(tensor: Tensor) -> Tensor:
    return tensor.to("cuda") if distributed.get_backend() == "nccl" else tensor.cpu()


def merge_moments(moments: AnyMoments, params: Params, ranks: Ranks) -> None:
    r"""Merge the moments of all processes, in place and the same everywhere.

    With counts :math:`n_r`: :math:`\bar g = \sum_r n_r \bar g_r / n`,
    :math:`M = \sum_r M_r + n_r (\bar g_r - \bar g)^2` (Chan et al.).

    Args:
        moments: This process's; may be empty.
        params: All parameters.
        ranks: This process among its kind.
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
    """Give every process every finished shard, in the order of the samples.

    Args:
        collector: Holds this process's shards; afterwards all.
        number: Shards of all processes.
        ranks: This process among its kind.
    """
    own = iter(collector.packed())
    packed = [next(own) if ranks.owner(s) == ranks.rank else collector.empty_pack() for s in range(number)]
    received = [[from_rank(part, ranks.owner(s)) for part in parts] for s, parts in enumerate(packed)]
    collector.unpack(received)


def share_losses(losses: dict[int, Tensor], count: int, ranks: Ranks) -> Floats:
    """Losses of all samples in order, from whichever process has them.

    Args:
        losses: First sample's number to losses of consecutive samples.
        count: Number n of samples.
        ranks: This process among its kind.

    Returns:
        Shape ``(n,)``.
    """
    joined = torch.zeros(count, dtype=torch.float64)
    for first, values in losses.items():
        joined[first : first + len(values)] = values.double().cpu()
    return np.asarray((summed(joined) if ranks.size > 1 else joined).numpy())
