"""Progress of a sweep on a terminal: a bar, and a line for each finished run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from gsnr_toolkit.sweeps.grid import label
from gsnr_toolkit.training.config import TrainConfig

__all__ = ["line", "reporter"]

_Report = Callable[[TrainConfig, Mapping[str, Any]], None]

_STYLES = {"ok": "", "dead": "yellow", "diverged": "yellow"}


@contextmanager
def reporter(total: int, done: int, names: Sequence[str], *, show: bool) -> Iterator[_Report]:
    """Report runs on stderr as they end. The bar needs a terminal, the lines do not.

    Args:
        total: Number of runs of the sweep.
        done: Number of runs finished earlier.
        names: Settings that identify a run.
        show: Whether to print anything.

    Yields:
        A function to call with the config and the row of each run that has ended.
    """
    if not show or done == total:
        yield lambda config, row: None  # noqa: ARG005
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task("runs", total=total, completed=done)
        ended = done

        def report(config: TrainConfig, row: Mapping[str, Any]) -> None:
            nonlocal ended
            ended += 1
            bars.advance(task)
            text = f"[{ended}/{total}] {line(config, row, names)}"
            console.print(text, style=_STYLES.get(row["status"], "red"), markup=False)

        yield report


def line(config: TrainConfig, row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Summarise a run in a line.

    Args:
        config: The run.
        row: Its row in the table.
        names: Settings that identify it.

    Returns:
        Text such as ``"demo-nt, rho 0.05, seed 0: AUC 0.512 [0.476, 0.548], loss 0.693, dead"``.
    """
    name = label(config, names)
    if "test_auc" not in row:
        return f"{name}: {row['status']}: {row['message']}"
    limits = f"[{row['test_auc_low']:.3f}, {row['test_auc_high']:.3f}]"
    return f"{name}: AUC {row['test_auc']:.3f} {limits}, loss {row['train_loss']:.3f}, {row['status']}"
