"""SAM's mini-batches: how batches are regrouped for COR."""

from __future__ import annotations

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.loaders import rebatch
from gsnr_toolkit.inputs.options import ProbeOptions
from gsnr_toolkit.types import Batch

MIN_BATCHES = 4


PREFERRED_BATCHES = 8


MAX_BATCHES = 64
"""Most mini-batches that enter COR; more are used for GSNR only."""


def sam_batches(batches: list[Batch], options: ProbeOptions) -> list[Batch]:
    """Regroup batches to SAM's mini-batch size.

    Args:
        batches: Batches as drawn.
        options: ``batch_size`` decides; when None, the first batch's size, lowered until there are eight
            mini-batches.

    Returns:
        Mini-batches of one size; a shorter last one comes along (GSNR uses it, COR does not).

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


def full_batches(batches: list[Batch]) -> list[Batch]:
    """Keep the mini-batches that enter COR.

    Returns:
        Those of full size, at most :data:`MAX_BATCHES`.
    """
    size = batch_length(batches[0])
    return [batch for batch in batches if batch_length(batch) == size][:MAX_BATCHES]
