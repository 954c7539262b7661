"""One method on one model, in a process of its own: memory first, then correctness, then time.

Started by :mod:`benchmarks.engines`. Results go to a file after each step, so that what was found stays when the
process is killed.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

CHECK_ROWS = 3
"""Samples of the comparison with the loop, in chunks of :data:`CHECK_CHUNK`: the last chunk is a short one."""
CHECK_CHUNK = 2


@dataclass(frozen=True)
class Case:
    """What one process is to do.

    Attributes:
        model: A name of :data:`benchmarks.comparison.settings.MODELS`.
        method: A name of :data:`benchmarks.comparison.methods.METHODS`, or ``"module:name"``.
        batch: Samples in the timed batch.
        repeats: Timed repetitions.
        device: ``"cpu"`` or ``"cuda"``.
        threads: Of torch; its own choice when None.
        budget: GiB that per-sample gradients alive at once may take: the chunk of every method that has one.
        allocator: ``"keep"`` lets the process keep freed memory, ``"default"`` leaves that to the C library.
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
    # before anything else is built: a process's peak never comes down again
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
    torch.backends.cudnn.allow_tf32 = False  # a 10-bit mantissa would look like a wrong method
    try:
        method, setting = find_method(case.method), build_setting(case.model, CHECK_ROWS, case.device)
        exact = build_setting(case.model, CHECK_ROWS, case.device, torch.float64)
        return agreement(method, method.prepare(setting, CHECK_CHUNK), setting, exact)
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def _timed(case: Case, chunk: int) -> dict[str, float]:
    from benchmarks.comparison.methods import PLAIN, deliver, find_method
    from benchmarks.comparison.settings import build_setting

    seconds: dict[str, list[float]] = {"own": [], "plain": []}
    workers = []
    # a model each: what a peer hooks into its own must not slow the other
    for key, method in (("own", find_method(case.method)), ("plain", PLAIN)):
        setting = build_setting(case.model, case.batch, case.device)
        workers.append((key, method, method.prepare(setting, chunk), setting.batch))
    for turn in range(case.repeats + 1):
        for key, method, worker, batch in workers:
            took = _seconds(partial(deliver, method, worker, batch), case.device)
            if turn:  # the first one warms up
                seconds[key].append(took)
    ratios = [own / plain for own, plain in zip(seconds["own"], seconds["plain"], strict=True)]
    return {
        "time_ratio": statistics.median(ratios),
        "time_low": min(ratios),
        "time_high": max(ratios),
        "seconds": statistics.median(seconds["own"]),
        "plain_seconds": statistics.median(seconds["plain"]),
    }


def _seconds(work: Callable[[], object], device: str) -> float:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _peak_gib(device: str) -> float:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


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
