"""One method on one model, in its own process: first memory, then correctness, then time.

:mod:`benchmarks.engines` starts it. Results are written to a file after each step, so that they are kept if the process
is killed.
"""

from __future__ import annotations

import json
import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.instruments import peak_gib, seconds

CHECK_ROWS = 3
"""Samples of the comparison with the loop, in chunks of :data:`CHECK_CHUNK`, so that the last chunk is short."""
CHECK_CHUNK = 2


@dataclass(frozen=True)
class Case:
    """What one process measures.

    Attributes:
        model: A name of :data:`benchmarks.comparison.settings.MODELS`.
        method: A name of :data:`benchmarks.comparison.methods.METHODS`, or ``"module:name"``.
        batch: Samples in the timed batch.
        repeats: Timed repetitions.
        device: ``"cpu"`` or ``"cuda"``.
        threads: Threads of torch; its own choice when None.
        budget: GiB of per-sample gradients in memory at once; sets the chunk of every method that has one.
        allocator: ``"keep"`` makes the process keep freed memory, ``"default"`` leaves that to the C library.
    """

    model: str
    method: str
    batch: int
    repeats: int
    device: str = "cpu"
    threads: int | None = None
    budget: float = 2.0
    allocator: str = "keep"


def run_case(case: Case, record: Callable[[dict[str, Any]], None]) -> None:
    """Measure a case.

    Args:
        case: The case.
        record: Called with the fields of the case's row as they become known.
    """
    import torch

    from benchmarks.comparison.methods import deliver, find_method
    from benchmarks.comparison.settings import build_setting
    from gsnr_toolkit.gradients.vmap import choose_vmap_chunk
    from gsnr_toolkit.support.allocator import keep_freed_memory

    if case.allocator == "keep":
        keep_freed_memory()
    if case.threads is not None:
        torch.set_num_threads(case.threads)
    method = find_method(case.method)
    record({"family": method.family, "gives": method.gives, "product": method.product})
    setting = build_setting(case.model, case.batch, case.device)
    chunk = choose_vmap_chunk(setting.task, memory=int(case.budget * 2**30))
    record({"num_params": setting.num_params(), "threads": torch.get_num_threads(), "chunk": chunk})
    record({"idle_gib": _peak_gib(case.device)})
    worker = method.prepare(setting, chunk)
    deliver(method, worker, setting.batch)
    # before anything else is built: the peak of a process never goes down
    record({"peak_gib": _peak_gib(case.device)})
    del worker, setting
    record(_checked(case))
    record(_timed(case, chunk))


def _checked(case: Case) -> dict[str, float]:
    import torch

    from benchmarks.comparison.agreement import agreement
    from benchmarks.comparison.methods import find_method
    from benchmarks.comparison.settings import build_setting

    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # its 10-bit mantissa would look like a wrong method
    try:
        method, setting = find_method(case.method), build_setting(case.model, CHECK_ROWS, case.device)
        exact = build_setting(case.model, CHECK_ROWS, case.device, torch.float64)
        return agreement(method, method.prepare(setting, CHECK_CHUNK), setting, exact)
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def _timed(case: Case, chunk: int) -> dict[str, float]:
    from benchmarks.comparison.methods import PLAIN, deliver, find_method
    from benchmarks.comparison.settings import build_setting

    times: dict[str, list[float]] = {"own": [], "plain": []}
    workers = []
    # each has its own model: hooks of one library must not slow the other
    for key, method in (("own", find_method(case.method)), ("plain", PLAIN)):
        setting = build_setting(case.model, case.batch, case.device)
        workers.append((key, method, method.prepare(setting, chunk), setting.batch))
    for turn in range(case.repeats + 1):
        for key, method, worker, batch in workers:
            took = seconds(partial(deliver, method, worker, batch), case.device)
            if turn:  # the first one warms up
                times[key].append(took)
    ratios = [own / plain for own, plain in zip(times["own"], times["plain"], strict=True)]
    return {
        "time_ratio": statistics.median(ratios),
        "time_low": min(ratios),
        "time_high": max(ratios),
        "seconds": statistics.median(times["own"]),
        "plain_seconds": statistics.median(times["plain"]),
    }


def _peak_gib(device: str) -> float:
    if device != "cuda":
        return peak_gib()
    import torch

    return torch.cuda.max_memory_allocated() / 2**30


def main(arguments: list[str]) -> None:
    """Run the case given as JSON and write its row as JSON.

    Args:
        arguments: The case's fields as a JSON object, and the path of the result.
    """
    case, path = Case(**json.loads(arguments[0])), Path(arguments[1])
    row: dict[str, Any] = {}

    def record(fields: dict[str, Any]) -> None:
        row.update(fields)
        path.write_text(json.dumps(row), encoding="utf8")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_case(case, record)
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        record({"failure": f"{type(error).__name__}: {first}".removesuffix(": ")})


if __name__ == "__main__":
    main(sys.argv[1:])
