"""The outcome of one row against a radius: the one place that table, sentence, page and exit code read."""

from __future__ import annotations

from typing import Any, Literal

Outcome = Literal["inside", "outside", "undecided"]


def collapse_outcome(row: Any, rho: float) -> Outcome:
    """Tell whether a radius lies inside or outside the collapse zone, as far as the interval of COR decides.

    Args:
        row: Row with ``status``, ``cor_low`` and ``cor_high``.
        rho: SAM radius in question.

    Returns:
        ``"inside"`` if the whole interval lies below rho, ``"outside"`` if it reaches no lower than rho, and
        ``"undecided"`` otherwise. A row without a signal is undecided: its upper limit has no shown coverage.

    >>> row = {"status": "ok", "cor_low": 0.02, "cor_high": 0.04}
    >>> [collapse_outcome(row, rho) for rho in (0.01, 0.03, 0.05)]
    ['outside', 'undecided', 'inside']
    """
    if row["status"] not in ("ok", "above_max_radius"):
        return "undecided"
    if row["status"] == "ok" and float(row["cor_high"]) < rho:
        return "inside"
    return "outside" if float(row["cor_low"]) >= rho else "undecided"
