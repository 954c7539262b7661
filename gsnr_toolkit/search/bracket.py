"""Bracket the smallest radius that fails, with few trials."""

from __future__ import annotations

import math
from collections.abc import Callable

_STEP = 2.0
"""Factor between two radii while one end of the bracket is unknown."""


def bracket(
    fails: Callable[[float], bool], guess: float, *, precision: float, smallest: float, largest: float
) -> tuple[float, float]:
    """Bracket the radius of failure by a geometric search from a guess, then by bisection.

    Args:
        fails: Whether a run at a radius fails; a trial.
        guess: First radius.
        precision: Ratio of the bracket's ends at which to stop.
        smallest: Below this radius nothing is tried.
        largest: Above this radius nothing is tried.

    Returns:
        Largest radius that trains below the smallest that fails, and the latter; 0 if everything fails, infinity if
        nothing does.

    >>> low, high = bracket(lambda rho: rho > 0.3, 0.1, precision=1.5, smallest=1e-3, largest=10)
    >>> round(low, 3), high
    (0.283, 0.4)
    """
    rho, low, high = min(max(guess, smallest), largest), 0.0, math.inf
    while not (low > 0 and high < math.inf):
        if fails(rho):
            high = rho
            if rho <= smallest:
                return low, high
            rho = max(rho / _STEP, smallest)
        else:
            low = rho
            if rho >= largest:
                return low, high
            rho = min(rho * _STEP, largest)
    while high / low > precision:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fails(middle) else (middle, high)
    return low, high


def bracket_of(fates: dict[float, bool]) -> tuple[float, float]:
    """Return the bracket that follows from fates that are known, radius to whether it failed.

    >>> bracket_of({0.1: False, 0.4: True, 0.2: False, 0.8: False})
    (0.2, 0.4)
    """
    high = min((rho for rho, failed in fates.items() if failed), default=math.inf)
    return max((rho for rho, failed in fates.items() if not failed and rho < high), default=0.0), high
