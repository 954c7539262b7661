"""How a report writes numbers: one formatter for terminals, pages and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

ANSWERED = ("ok", "above_max_radius")
"""Statuses for which COR is known to lie above or below a radius."""


def number(value: float) -> str:
    """Format a number with two significant digits.

    Returns:
        Such as ``"0.0062"``; ``"inf"`` and ``"nan"`` for those.

    >>> number(0.00623), number(1234.0), number(float("inf"))
    ('0.0062', '1200', 'inf')
    """
    if not math.isfinite(value):
        return str(value)
    text = f"{value:.2g}"
    return f"{float(text):g}" if "e+" in text else text


def limits(low: float, high: float) -> str:
    """Format an interval, such as ``"[0.005, 0.008]"``; the empty string if both ends are NaN."""
    return "" if math.isnan(low) and math.isnan(high) else f"[{number(low)}, {number(high)}]"


def interval(row: Mapping[str, Any] | pd.Series, name: str) -> str:
    """Format an estimate with its interval.

    Args:
        row: Holds ``name``, ``name_low`` and ``name_high``.
        name: Column.

    Returns:
        Such as ``"0.006 [0.005, 0.008]"``; ``"undefined"`` for NaN.
    """
    value, low, high = (float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return "undefined" if math.isnan(value) else f"{number(value)} {limits(low, high)}".strip()


def beyond(settings: Mapping[str, Any]) -> str:
    """Format a radius that lies above every radius tried, such as ``"> 0.2"``."""
    return f"> {number(settings['radii'][-1])}"


def cor_parts(row: Mapping[str, Any] | pd.Series, above: str) -> tuple[str, str]:
    """Format the COR of a row of any status.

    Args:
        row: Holds ``status``, ``cor``, ``cor_low`` and ``cor_high``.
        above: Text for a COR above every radius tried.

    Returns:
        The estimate, and what bounds it (may be empty).

    >>> row = {"status": "ok", "cor": 0.006, "cor_low": 0.005, "cor_high": 0.008}
    >>> cor_parts(row, "> 0.2"), cor_parts({**row, "status": "no_signal"}, "> 0.2")
    (('0.006', '[0.005, 0.008]'), ('no signal', 'at most 0.008'))
    """
    status, low, high = str(row["status"]), float(row["cor_low"]), float(row["cor_high"])
    if status == "ok":
        return number(float(row["cor"])), limits(low, high)
    if status == "above_max_radius":
        return above, ""
    bounded = status == "no_signal" and math.isfinite(high)
    return status.replace("_", " "), f"at most {number(high)}" if bounded else ""


def cor_text(row: Mapping[str, Any] | pd.Series, above: str) -> str:
    """Join the two parts of `cor_parts`: ``"0.006 [0.005, 0.008]"``, ``"no signal, at most 0.008"``."""
    value, bound = cor_parts(row, above)
    return f"{value} {bound}" if bound.startswith("[") else ", ".join(part for part in (value, bound) if part)
