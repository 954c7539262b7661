"""Clocks, memory and output that all benchmarks share. It loads torch only where a GPU is timed."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Work: TypeAlias = Callable[[], object]


def seconds(work: Work, device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Time one call; on a GPU, until the GPU is done.

    Args:
        work: What to call.
        device: ``"cpu"`` or ``"cuda"``.
        clock: ``time.process_time`` does not count other work on the machine; on a GPU, the wall clock is used.
    """
    if device != "cuda":
        began = clock()
        work()
        return clock() - began
    import torch

    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def ratios(
    work: Work, plain: Work, repeats: int, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Time two calls in turns, after one call of each to warm up, and return the ratios of their times."""
    work(), plain()
    return [seconds(work, device, clock) / seconds(plain, device, clock) for _ in range(repeats)]


def peak_gib(who: int = resource.RUSAGE_SELF) -> float:
    """Return the peak memory of this process so far, or of its children (``resource.RUSAGE_CHILDREN``), in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(who).ru_maxrss * unit / 2**30


def parser(module: str, description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """Make the parser of a benchmark's command.

    Args:
        module: Name of the module that is run.
        description: Its docstring.
        **defaults: Which of the common options the command has (``repeats``, ``device``), and their defaults.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if "device" in defaults:
        made.add_argument("--device", choices=("cpu", "cuda"), default=defaults["device"])
    if "repeats" in defaults:
        made.add_argument("--repeats", type=int, default=defaults["repeats"], help="timed repetitions")
    return made


def line(*cells: Any) -> str:
    """Format one row of a Markdown table.

    >>> line("taps", 1.05)
    '| taps | 1.05 |'
    """
    return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"


def head(*columns: str) -> str:
    """Format the two lines at the top of a Markdown table."""
    return line(*columns) + "\n" + "|---" * len(columns) + "|"


def middle_and_range(values: Sequence[float], form: str = ".2f") -> tuple[str, str]:
    """Format the median and the range of some values as two cells.

    >>> middle_and_range([1.0, 3.0, 2.0])
    ('2.00', '1.00 to 3.00')
    """
    return format(statistics.median(values), form), f"{min(values):{form}} to {max(values):{form}}"


def write_json(path: Path, content: Any) -> None:
    """Write a file of results; JSON has no NaN."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf8")
