"""Freed memory kept by the process, so that large activations do not touch fresh pages in every pass.

By default glibc gives every large block back to the system when it is freed and asks for it again in the next forward,
page by page. Where pages are dear (virtual machines), that is up to a quarter of the time of a large model on a CPU
(``benchmarks/README.md``); small models do not notice.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER, _NONE = -1, 0
_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which users choose for themselves."""


def keep_freed_memory() -> bool:
    """Let glibc keep what this process frees, for its next allocation; it goes back when the process ends.

    A setting of the whole process: the commands call it, the library never does. The peak grows by a few percent.

    Returns:
        Whether it was done: false where malloc is not glibc's, or an environment variable says how it is to behave.

    >>> keep_freed_memory() in (True, False)
    True
    """
    if sys.platform != "linux" or any(name in os.environ for name in _SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, _NONE)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
