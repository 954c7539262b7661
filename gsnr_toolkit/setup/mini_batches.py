"""SAM's mini-batches: how batches are regrouped for COR."""

from __future__ import annotations

from collections.abc import Iterable

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.loaders import rebatch
from gsnr_toolkit.inputs.options import LOWERED, ProbeOptions
from gsnr_toolkit.types import Batch

MIN_BATCHES = 4
"""Fewest mini-batches for COR: with fewer, its interval means nothing."""

PREFERRED_BATCHES = 8
"""From here on COR's nominal interval is close to its real coverage."""

MAX_BATCHES = 64
"""Most mini-batches that enter COR; the others serve GSNR only."""


def sam_batches(batches: list[Batch], options: ProbeOptions) -> list[Batch]:
    """Regroup batches to SAM's mini-batch size.

    Args:
        batches: Batches as the loader yields them.
        options: For ``batch_size``. If it is None, the size of the first batch, lowered until there are eight
            mini-batches.

    Returns:
        Mini-batches of one size. A shorter last one is kept: GSNR uses it, COR does not.

    Raises:
        ProbeError: If fewer than four full mini-batches can be made.
    """
    total = sum(batch_length(batch) for batch in batches)
    size = options.batch_size or max(1, min(batch_length(batches[0]), total // PREFERRED_BATCHES))
    if total // size < MIN_BATCHES:
        raise ProbeError(
            f"expected at least {MIN_BATCHES} mini-batches for COR's interval, got {total // size} of {size} from "
            f"{total} samples; lower batch_size to at most {total // MIN_BATCHES} or give more samples"
        )
    return list(rebatch(batches, size))


def lowered_note(batches: Iterable[Batch], first: Batch, options: ProbeOptions) -> tuple[str, ...]:
    """Say so if the mini-batches are smaller than the loader's.

    Args:
        batches: SAM's mini-batches.
        first: The loader's first batch.
        options: For ``batch_size``.

    Returns:
        At most one note.
    """
    size, theirs = batch_length(next(iter(batches))), batch_length(first)
    if options.batch_size or size >= theirs:
        return ()
    return (
        f"{LOWERED} of {size} {'sample' if size == 1 else 'samples'}, not of the loader's {theirs}, so that there are "
        f"more of them; for SAM with {theirs}, give {PREFERRED_BATCHES * theirs} samples, or "
        f"batch_size={theirs} with at least {MIN_BATCHES * theirs}",
    )


def full_batches(batches: Iterable[Batch]) -> list[Batch]:
    """Keep the mini-batches that enter COR.

    Args:
        batches: SAM's mini-batches.

    Returns:
        The mini-batches of full size, at most :data:`MAX_BATCHES`.
    """
    held = list(batches)
    size = batch_length(held[0])
    return [batch for batch in held if batch_length(batch) == size][:MAX_BATCHES]
