"""Progress bars on stderr, shown only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Function that advances a progress bar."""

    def __call__(self, done: int, note: str = "") -> None:
        """Add the units just done; a note is shown behind the bar until the next one."""
        ...


@contextmanager
def stage(label: str, total: int | None, *, show: bool) -> Iterator[Advance]:
    """Show a progress bar for one stage of work.

    Args:
        label: Name of the stage.
        total: Units of work; None if unknown.
        show: Whether to show the bar; without a terminal on stderr, it is never shown.

    Yields:
        Function to call with the units just done.
    """
    if not show or total == 0 or not sys.stderr.isatty():
        yield lambda done, note="": None  # noqa: ARG005 - no bar
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=total, note="")

        def advance(done: int, note: str = "") -> None:
            bars.advance(task, done)
            if note:
                bars.update(task, note=note)

        yield advance
