"""The global random states of torch, numpy and Python."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def same_global_rng(seed: int | None = None) -> Iterator[None]:
    """Restore the global random states of torch (CPU and GPUs), numpy and Python on leaving.

    Args:
        seed: Seed them all with this on entering; None leaves them unchanged.

    Yields:
        Nothing.
    """
    python_state, numpy_state, cpu_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    gpu_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - models and data sets may draw from it
            torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(cpu_state)
        if gpu_states:
            torch.cuda.set_rng_state_all(gpu_states)
