"""Progress bars on stderr, and nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stage(label: str, total: int | None, *, show: bool) -> Iterator[Callable[[int], None]]:
    """Show one stage of work.

    Args:
        label: What is being done.
        total: Units of work; None when unknown.
        show: Whether to show anything; a stderr that is no terminal shows nothing either.

    Yields:
        A function to call with the units just done.
    """
    if not show or total == 0 or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=total)
        yield lambda done: bars.advance(task, done)
