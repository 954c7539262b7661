"""Work spread over processes of one thread each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def single_thread() -> Iterator[None]:
    """Use one thread inside the block: runs repeat bit for bit only with the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> None:
    """Initialise a worker process with one thread."""
    torch.set_num_threads(1)


def spread(work: Callable[..., Any], *items: Iterable[Any], workers: int) -> list[Any]:
    """Call a function on items in processes of one thread each; one worker means the current process.

    Args:
        work: A picklable function.
        *items: As for ``map``.
        workers: Number of processes.

    Returns:
        The results, in order.

    >>> spread(max, [1, 5], [3, 4], workers=1)
    [3, 5]
    """
    if workers == 1:
        with single_thread():
            return list(map(work, *items))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=one_thread) as pool:
        return list(pool.map(work, *items))
