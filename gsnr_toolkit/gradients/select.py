"""Choose an engine, and the number of samples that run at once."""

from __future__ import annotations

from collections.abc import Callable

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.kernels.tiles import SAMPLES_AT_ONCE, TILE_ENTRIES
from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.memory import BACKWARD_SHARE, SHARE, free_memory, saved_bytes_per_sample
from gsnr_toolkit.gradients.streaming import StreamingEngine
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.task import Engine, GradientTask
from gsnr_toolkit.gradients.vmap import vmap_bytes_per_sample, vmap_gradients
from gsnr_toolkit.types import Batch

ENGINES: dict[str, Callable[[], Engine]] = {
    "loop": lambda: StreamingEngine("loop", loop_gradients),
    "vmap": lambda: StreamingEngine("vmap", vmap_gradients),
    "taps": TapsEngine,
}

LARGE_ON_CPU = 4_000_000
"""On a CPU, models with more parameters than this use ``loop`` instead of ``vmap`` where ``taps`` does not work:
``vmap`` holds a gradient for each sample of a chunk. Which of the two is faster depends on the processor
(``benchmarks/README.md``): at 88 M parameters it was one backward per sample on one make, ``vmap`` on another."""

MEAN_ONLY = "mean"
"""Stands for the mean gradient by one ordinary backward, which COR uses, where an engine's name is expected."""

MAX_CHUNK = 32
"""Most samples whose formed gradients are in memory together."""


def make_engine(name: str) -> Engine:
    """Make an engine by name.

    Args:
        name: ``"taps"``, ``"vmap"`` or ``"loop"``.

    Returns:
        A new engine.

    Raises:
        ProbeError: If the name is unknown.

    >>> make_engine("loop").notes()
    []
    """
    if name not in ENGINES:
        raise ProbeError(f"expected one of the engines {sorted(ENGINES)}, got {name!r}; pass one of them or 'auto'")
    return ENGINES[name]()


def without_taps(task: GradientTask) -> str:
    """Choose the engine for a model that ``taps`` cannot serve: ``"vmap"``, or ``"loop"`` for large ones on a CPU."""
    on_cpu = next(iter(task.params.values())).device.type == "cpu"
    return "loop" if on_cpu and task.num_params > LARGE_ON_CPU else "vmap"


def choose_chunk(engine: str, task: GradientTask, rows: Batch, memory: int | None = None) -> int:
    """Choose the number of samples that run at once so that a pass fits into the given memory.

    Model and moments are not counted. ``taps`` keeps what autograd saves for each sample's backward, and the gradients
    of a few layers; ``vmap`` also forms the gradient of every sample. Both are computed from a few samples, not tried
    out. Mean gradients need what is saved and two copies of the parameters: a gradient, and the sum over chunks.

    Args:
        engine: Name of the engine, or :data:`MEAN_ONLY`.
        task: Model and parameters.
        rows: A few samples.
        memory: Bytes; one part in :data:`SHARE` of the free memory when None.

    Returns:
        A number of samples, at least 1; always 1 for the loop.
    """
    if engine == "loop":
        return 1
    device = next(iter(task.params.values())).device
    budget = free_memory(device) // SHARE if memory is None else memory
    saved = int(saved_bytes_per_sample(task, rows) * (1 + BACKWARD_SHARE))
    if engine == "vmap":
        return int(max(1, min(MAX_CHUNK, budget // max(1, vmap_bytes_per_sample(task) + saved))))
    fixed = vmap_bytes_per_sample(task) if engine == MEAN_ONLY else layer_bytes(task)
    return int(max(1, (budget - fixed) // max(1, saved)))


def layer_bytes(task: GradientTask) -> int:
    """Return the bytes that merging the largest layer's gradients takes, whatever the number of samples."""
    entries, size = max((param.numel(), max(4, param.element_size())) for param in task.params.values())
    return size * max(3 * entries, SAMPLES_AT_ONCE * min(entries, TILE_ENTRIES))


def predicted_bytes(engine: str, task: GradientTask, rows: Batch, chunk: int) -> int:
    """Predict the memory of a pass, besides model and moments, by the same estimate as :func:`choose_chunk`.

    Args:
        engine: Name of the engine, or :data:`MEAN_ONLY`.
        task: Model and parameters.
        rows: A few samples.
        chunk: Number of samples that run at once.

    Returns:
        Bytes.
    """
    saved = int(saved_bytes_per_sample(task, rows) * (1 + BACKWARD_SHARE))
    gradient = vmap_bytes_per_sample(task)
    per_engine = {
        "loop": saved + gradient * 3 // 2,  # a gradient, its merging, and what the backward still holds
        "vmap": chunk * (saved + gradient),
        "taps": chunk * saved + layer_bytes(task),
        MEAN_ONLY: chunk * saved + gradient,
    }
    return per_engine[engine]
