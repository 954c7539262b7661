"""Available memory, and the memory that a sample's backward takes."""

from __future__ import annotations

import os
from contextlib import suppress

import torch
from torch import Tensor

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.task import GradientTask
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.types import Batch

SHARE = 4
"""Without a budget from the caller, one part in this many of the free memory is used."""

BACKWARD_SHARE = 0.5
"""Memory of a backward on top of what the forward saved, as a share of it: gradients of a few layers at a time."""


def saved_bytes_per_sample(task: GradientTask, rows: Batch) -> int:
    """Count the bytes that autograd saves for one sample's backward, by running a forward and recording them.

    Args:
        task: Model, parameters and loss.
        rows: A few samples.

    Returns:
        Bytes of saved tensors per sample. Every storage is counted once; parameters and buffers are not counted.
    """
    own = {value.untyped_storage().data_ptr() for value in (*task.params.values(), *task.constants.values())}
    held = (*task.model.parameters(), *task.model.buffers())
    own |= {value.untyped_storage().data_ptr() for value in held if not _wraps(value)}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _wraps(tensor):
            return tensor
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = max(seen.get(storage.data_ptr(), 0), storage.nbytes())
        return tensor

    leaves = {name: value.detach().requires_grad_() for name, value in task.params.items()}
    with preserved_rng(), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = task.losses(leaves, rows)
    del losses
    return -(-sum(seen.values()) // max(1, batch_length(rows)))


def free_memory(device: torch.device) -> int:
    """Return the free memory of a device in bytes, as the system or CUDA reports it; 4 GiB if neither does."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with suppress(OSError, ValueError, StopIteration), open("/proc/meminfo", encoding="ascii") as lines:
        # unlike free pages, this includes caches that the system frees on demand
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


def parse_bytes(text: str) -> int:
    """Read a memory size.

    Args:
        text: For example ``"8GB"``, ``"512MiB"`` or ``"1e9"``; decimal and binary units.

    Returns:
        Bytes.

    Raises:
        ProbeError: If the text is not such a size, or not positive.

    >>> parse_bytes("8GB"), parse_bytes("1.5 GiB")
    (8000000000, 1610612736)
    """
    units = {"": 1, "B": 1}
    for power, letter in enumerate("KMGT", 1):
        units.update({letter: 1000**power, f"{letter}B": 1000**power, f"{letter}IB": 1024**power})
    stripped = text.strip().upper()
    number = stripped.rstrip("KMGTIB ")
    try:
        size = float(number) * units[stripped[len(number) :].strip()]
    except (ValueError, KeyError):
        raise ProbeError(f"expected a memory size, got {text!r}; pass one such as 8GB, 512MiB or 1e9") from None
    if not size > 0:
        raise ProbeError(f"expected a positive memory size, got {text!r}; pass one such as 8GB, 512MiB or 1e9")
    return int(size)


def _wraps(value: Tensor) -> bool:
    """Whether a tensor has no storage of its own, as wrapper subclasses (quantized weights) do."""
    try:
        value.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return True
    return False
