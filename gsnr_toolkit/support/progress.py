"""Progress bars on stderr, and nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Tells a progress bar what was done."""

    def __call__(self, done: int, note: str = "") -> None:
        """Add the units just done; a note, where given, stands behind the bar from now on."""
        ...


@contextmanager
def stage(label: str, total: int | None, *, show: bool) -> Iterator[Advance]:
    """Show one stage of work.

    Args:
        label: What is being done.
        total: Units of work; None when unknown.
        show: Whether to show anything; a stderr that is no terminal shows nothing either.

    Yields:
        A function to call with the units just done.
    """
    if not show or total == 0 or not sys.stderr.isatty():
        yield lambda done, note="": None  # noqa: ARG005 - nobody looks
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
