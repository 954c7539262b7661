"""Which engine, and how many samples at a time."""

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
"""Parameters from which ``vmap`` is not taken on a CPU where ``taps`` cannot be used: it holds a gradient for each
sample of a chunk. Which of the two is faster depends on the processor (``benchmarks/README.md``): at 88 M parameters it
was one backward per sample on one make, ``vmap`` on another."""

MEAN_ONLY = "mean"
"""In place of an engine: one ordinary backward for the mean gradient of some samples, as COR takes it."""

MAX_CHUNK = 32
"""Most samples whose formed gradients are alive together."""


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
        raise ProbeError(f"expected engine to be 'auto' or one of {sorted(ENGINES)}, got {name!r}")
    return ENGINES[name]()


def without_taps(task: GradientTask) -> str:
    """The engine for a model that ``taps`` cannot serve.

    Returns:
        ``"vmap"`` on accelerators and for small models, ``"loop"`` otherwise.
    """
    on_cpu = next(iter(task.params.values())).device.type == "cpu"
    return "loop" if on_cpu and task.num_params > LARGE_ON_CPU else "vmap"


def choose_chunk(engine: str, task: GradientTask, rows: Batch, memory: int | None = None) -> int:
    """Samples that run at once so that a pass takes at most the given memory, beside model and moments.

    ``taps`` keeps what autograd saves for each sample's backward, and the gradients of a few layers; ``vmap``
    besides forms the gradient of every sample. Both are counted on a few samples, not tried out. Mean gradients take
    what is saved, and two copies of the parameters: a gradient, and the sum over chunks.

    Args:
        engine: Which engine, or :data:`MEAN_ONLY`.
        task: Model and parameters.
        rows: A few samples.
        memory: Bytes; one part in :data:`SHARE` of the free memory when None.

    Returns:
        A number of samples, at least 1; the loop always takes one at a time.
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
    """What sums over the largest layer's gradients take while they are made.

    Returns:
        Bytes, whatever the number of samples.
    """
    entries, size = max((param.numel(), max(4, param.element_size())) for param in task.params.values())
    return size * max(3 * entries, SAMPLES_AT_ONCE * min(entries, TILE_ENTRIES))


def predicted_bytes(engine: str, task: GradientTask, rows: Batch, chunk: int) -> int:
    """What a pass of an engine takes beside model and moments, by the same model as :func:`choose_chunk`.

    Args:
        engine: Which engine, or :data:`MEAN_ONLY`.
        task: Model and parameters.
        rows: A few samples.
        chunk: Samples that run at once.

    Returns:
        Bytes.
    """
    saved = int(saved_bytes_per_sample(task, rows) * (1 + BACKWARD_SHARE))
    gradient = vmap_bytes_per_sample(task)
    per_engine = {
        "loop": saved + gradient * 3 // 2,  # a gradient, its use, and what the backward still holds
        "vmap": chunk * (saved + gradient),
        "taps": chunk * saved + layer_bytes(task),
        MEAN_ONLY: chunk * saved + gradient,
    }
    return per_engine[engine]
