"""Keep freed memory in the process, so that large activations reuse pages instead of requesting new ones in every pass.

By default, glibc returns every large block to the system when it is freed, and requests it again in the next forward
pass, page by page. Where page faults are expensive (virtual machines), this takes up to a quarter of the time of a
large model on a CPU (``benchmarks/README.md``). Small models are not affected.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER, _NONE = -1, 0
_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables with which users configure malloc themselves."""


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for later allocations until the process ends.

    This affects the whole process, so only the commands call it, never the library. The peak grows by a few percent.

    Returns:
        Whether it was done; false if malloc is not glibc's, or an environment variable configures it.

    >>> keep_freed_memory() in (True, False)
    True
    """
    if sys.platform != "linux" or any(name in os.environ for name in _SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries lack it
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, _NONE)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
