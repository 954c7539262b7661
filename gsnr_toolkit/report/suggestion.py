"""What to train with, after a measurement: one radius, or ``rho="auto"``, and the reason in one line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gsnr_toolkit.report.numbers import limits, number
from gsnr_toolkit.report.outcome import collapse_outcome

if TYPE_CHECKING:
    from gsnr_toolkit.estimators.margin import Margin

AUTO = "auto"

SHARE_OF_MARGIN = 0.1
"""Share of the margin radius that is suggested as a fixed radius."""


@dataclass(frozen=True)
class Suggestion:
    """A value for ``SAM(..., rho=...)``.

    Attributes:
        rho: A radius, or ``"auto"``.
        message: What to type, and why.
    """

    rho: float | str
    message: str


def suggest(total: Any, margin: Margin | None, rho: float, last_step: int) -> Suggestion:
    """Suggest what to train with.

    A radius that COR certifies at every measured step is suggested as it is. Otherwise it is a tenth of the margin
    radius, or its lower limit if that is smaller. Without a margin it is ``"auto"``, which begins with plain steps and
    needs no number.

    Args:
        total: Row of the whole model at the bottleneck step.
        margin: The margin radius, if measured.
        rho: SAM radius in question.
        last_step: Last measured step.

    Returns:
        The value, and the reason in one line.
    """
    if "cor_low" in total and collapse_outcome(total, rho) == "outside":
        return Suggestion(rho, f"rho = {rho:g}: COR certifies it at every measured step")
    if margin is None or margin.status != "ok":
        why = "the margin radius is not known"
        if margin is not None and margin.status == "on_plateau":
            why = f"after {last_step} steps the loss has not fallen below that of a constant prediction"
        number_from = f"for a number, measure along more than {last_step} plain steps"
        return Suggestion(AUTO, f'rho = "auto", which takes plain steps until the loss falls: {why}; {number_from}')
    radius = _rounded_down(min(SHARE_OF_MARGIN * margin.value, margin.low))
    bounds = limits(margin.low, margin.high)
    if not radius:
        return Suggestion(AUTO, f'rho = "auto": the margin radius, {number(margin.value)} {bounds}, may be zero')
    why = f"a tenth of the margin radius, {number(margin.value)} {bounds}"
    if radius < 0.9 * SHARE_OF_MARGIN * margin.value:
        why = f"the lower limit of the margin radius, {number(margin.value)} {bounds}"
    return Suggestion(radius, f'rho = {radius:g} ({why}), or rho = "auto"')


def _rounded_down(radius: float) -> float:
    """Two significant digits, rounded down; 0 for what is not positive."""
    if not radius > 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(radius)) - 1)
    return float(f"{math.floor(radius / unit + 1e-9) * unit:.2g}")
