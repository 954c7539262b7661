"""Tables of a page: what a cell says, and what it is sorted by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gsnr_toolkit.report.verdict import number


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What it says.
        limits: Interval or bound, written beside it.
        order: What it is sorted by; None goes last, whichever way.
        tone: ``"bad"``, ``"good"``, ``"unsure"`` or nothing.
    """

    text: str
    limits: str = ""
    order: float | str | None = None
    tone: str = ""

    @property
    def key(self) -> str | None:
        """What the page's script sorts by: infinity by its name in JavaScript."""
        return (
            {"inf": "Infinity", "-inf": "-Infinity"}.get(str(self.order), str(self.order))
            if self.order is not None
            else None
        )


@dataclass(frozen=True)
class Column:
    """A column's head.

    Attributes:
        name: What stands there.
        numeric: Whether it is sorted as numbers.
        wide: Whether it holds sentences.
    """

    name: str
    numeric: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: What it holds.
        columns: Its heads.
        rows: Its rows.
        foot: Rows that stay below, however it is sorted.
        marked: Indices of rows to mark.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]] = ()
    marked: frozenset[int] = frozenset()


def words(value: Any) -> Cell:
    """A cell of text.

    Returns:
        The cell, sorted by its text.
    """
    return Cell(str(value), order=str(value))


def numeral(value: float, text: str | None = None) -> Cell:
    """A cell of one number.

    Args:
        value: The number.
        text: How it is written; two significant digits when None.

    Returns:
        The cell; a dash for NaN.

    >>> numeral(0.00623).text, numeral(float("nan")).text
    ('0.0062', '–')
    """
    if math.isnan(value):
        return Cell("–")
    return Cell(number(value) if text is None else text, order=float(value))


def estimate(row: Any, name: str) -> Cell:
    """A cell of an estimate with its interval.

    Args:
        row: Holds ``name``, ``name_low`` and ``name_high``.
        name: Column.

    Returns:
        The cell; the word "undefined" for NaN.

    >>> estimate({"cor": 0.006, "cor_low": 0.005, "cor_high": 0.008}, "cor")
    Cell(text='0.006', limits='[0.005, 0.008]', order=0.006, tone='')
    """
    value, low, high = (float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    if math.isnan(value):
        return Cell("undefined")
    limits = "" if math.isnan(low) and math.isnan(high) else f"[{number(low)}, {number(high)}]"
    return Cell(number(value), limits, value)


def plain(value: Any) -> str:
    """A setting's value in words.

    Returns:
        Text.

    >>> plain([0.1, 2]), plain(None), plain({"taps": 10}), plain(True)
    ('0.1, 2', 'not set', 'taps 10', 'yes')
    """
    if value is None or value != value:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value) or "none"
    return str(value)
