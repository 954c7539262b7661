"""Which engine, and how many samples at a time."""

from __future__ import annotations

import os

import torch

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.functional import Engine, GradientTask
from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.vmap import vmap_bytes_per_sample, vmap_gradients

ENGINES: dict[str, Engine] = {"loop": loop_gradients, "vmap": vmap_gradients}

LARGE_ON_CPU = 4_000_000
"""Parameters from which ``"auto"`` takes one backward per sample on a CPU. ``benchmarks/README.md``: vmap wins at
1.6 M parameters and loses at 88 M; the threshold lies between and also bounds vmap's memory."""

MAX_CHUNK = 32


def choose_engine(name: str, task: GradientTask) -> str:
    """Resolve ``"auto"``: vmap on accelerators and for small models, one backward per sample otherwise.

    Returns:
        A key of :data:`ENGINES`.

    Raises:
        ProbeError: If the name is unknown.
    """
    if name in ENGINES:
        return name
    if name != "auto":
        raise ProbeError(f"expected engine to be 'auto' or one of {sorted(ENGINES)}, got {name!r}")
    on_cpu = next(iter(task.params.values())).device.type == "cpu"
    return "loop" if on_cpu and task.num_params > LARGE_ON_CPU else "vmap"


def choose_chunk(task: GradientTask, memory: int | None = None) -> int:
    """Samples per chunk so that their gradients take at most the given memory.

    Args:
        task: Model and parameters.
        memory: Bytes for per-sample gradients; an eighth of the free memory when None.

    Returns:
        A number from 1 to :data:`MAX_CHUNK`.
    """
    if memory is None:
        memory = free_memory(next(iter(task.params.values())).device) // 8
    return int(max(1, min(MAX_CHUNK, memory // max(vmap_bytes_per_sample(task), 1))))


def free_memory(device: torch.device) -> int:
    """Free memory of a device in bytes.

    Returns:
        What the operating system or CUDA reports; 4 GiB where neither can say.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


def parse_bytes(text: str) -> int:
    """Read a memory size.

    Args:
        text: Such as ``"8GB"``, ``"512MiB"`` or ``"1e9"``; decimal and binary units.

    Returns:
        Bytes.

    Raises:
        ProbeError: If it is no such size.

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
        raise ProbeError(f"expected a memory size such as 8GB, 512MiB or 1e9, got {text!r}") from None
    if not size > 0:
        raise ProbeError(f"expected a positive memory size, got {text!r}")
    return int(size)
