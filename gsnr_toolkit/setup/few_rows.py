"""Errors of models that run on the loader's batches, but not on the few rows that the toolkit runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gsnr_toolkit.errors import ProbeError, first_line
from gsnr_toolkit.inputs.batches import batch_length, take_rows
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.types import Batch

REMEDY = (
    "take the size of states and buffers from the input (x.new_zeros(len(x), ...)), replace normalisation over the "
    "batch, use squeeze(-1) for squeeze(), and pack sequences with enforce_sorted=False"
)


@contextmanager
def on_few_rows(whole: Callable[[], Any], rows: int) -> Iterator[None]:
    """Explain an error inside the block if the model runs on the whole batch.

    Args:
        whole: Runs the model on the whole batch.
        rows: Number of samples of the whole batch.

    Yields:
        Nothing.

    Raises:
        ProbeError: If the model fails on a few rows only.
        OutOfMemoryError: Unchanged.
        Exception: The model's own, if it fails on the whole batch too.

    >>> with on_few_rows(lambda: None, 8):
    ...     raise RuntimeError("shape '[8, 2]' is invalid for input of size 2")
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected a model that runs on any number of samples, since per-sample gradients ...
    """
    try:
        yield
    except (ProbeError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not _runs(whole):
            raise
        raise ProbeError(
            "expected a model that runs on any number of samples, since per-sample gradients and their checks run 1 to "
            f"3 rows, but it runs on the whole batch of {rows} rows only ({type(error).__name__}: "
            f"{first_line(error)}); {REMEDY}"
        ) from error


@contextmanager
def on_regrouped(run: Callable[[Batch], Any], batches: Iterable[Batch]) -> Iterator[None]:
    """Explain an error inside the block if the model does not run on one of several regrouped batches.

    Args:
        run: Runs the model on a batch.
        batches: The batches; looked through only if they are a list.

    Yields:
        Nothing.

    Raises:
        ProbeError: If the model fails on one of the batches, but not on its first row.
        OutOfMemoryError: Unchanged.
        Exception: Any other, unchanged.
    """
    try:
        yield
    except (ProbeError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        held = batches if isinstance(batches, list) else []
        bad = next((batch for batch in held if not _runs(lambda: run(batch))), None)  # noqa: B023 - called at once
        if bad is None or not _runs(lambda: run(take_rows(bad, 0, 1))):
            raise
        raise ProbeError(
            f"expected a model that runs on mini-batches of {batch_length(held[0])} rows, which are regrouped from the "
            f"loader's batches, but it does not ({type(error).__name__}: {first_line(error)}); pass a batch_size that "
            "divides the loader's and enough samples for eight mini-batches, or pack sequences with "
            "enforce_sorted=False and pad them to one length"
        ) from error


def _runs(whole: Callable[[], Any]) -> bool:
    try:
        with preserved_rng(), torch.no_grad():
            whole()
    except Exception:  # whatever a model may raise
        return False
    return True
