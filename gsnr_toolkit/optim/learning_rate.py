"""Learning rates that fall along half a cosine wave."""

from __future__ import annotations

import math

__all__ = ["cosine_decay", "warmup_then_cosine"]


def cosine_decay(done: float, total: float = 1.0) -> float:
    """Return the factor of a learning rate that falls from 1 to 0 along half a cosine wave.

    Args:
        done: Progress, from 0 to ``total``.
        total: Where the factor reaches 0.

    Returns:
        ``(1 + cos(pi * done / total)) / 2``.

    >>> [round(cosine_decay(step, 4), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    # Not pi * (done / total): it rounds differently, and recorded runs must be reproduced bit for bit.
    return (1 + math.cos(math.pi * done / total)) / 2


def warmup_then_cosine(step: int, steps: int, *, peak: float, warmup: int = 0) -> float:
    """Return a learning rate that rises linearly to its peak and then falls as :func:`cosine_decay` to 0.

    Args:
        step: Step number, from 0.
        steps: Steps in all.
        peak: Largest learning rate.
        warmup: Steps in which the rate rises.

    Returns:
        The rate of the step.

    >>> [round(warmup_then_cosine(step, 6, peak=1.0, warmup=2), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * cosine_decay((step - warmup) / max(1, steps - warmup))
