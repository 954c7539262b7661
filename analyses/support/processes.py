"""Work spread over processes of one thread each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import starmap
from typing import Any

import torch


def as_finished(work: Callable[..., Any], *items: Iterable[Any], workers: int) -> Iterator[tuple[int, Any]]:
    """Call a picklable function on items, as ``map`` does, in processes of one thread each; one worker is this process.

    Yields:
        Index and result of each call once it is finished.
    """
    calls = list(zip(*items, strict=True))
    if workers == 1:
        # One thread here too: runs repeat bit for bit only with the same number of threads.
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from enumerate(starmap(work, calls))
        finally:
            torch.set_num_threads(before)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = {pool.submit(work, *call): index for index, call in enumerate(calls)}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def spread(work: Callable[..., Any], *items: Iterable[Any], workers: int) -> list[Any]:
    """Return the results of :func:`as_finished` in the order of the items.

    >>> spread(max, [1, 5], [3, 4], workers=1)
    [3, 5]
    """
    return [result for _, result in sorted(as_finished(work, *items, workers=workers), key=lambda pair: pair[0])]
