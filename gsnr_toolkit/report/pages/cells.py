"""Tables of a page: the text of a cell, and the value by which it is sorted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gsnr_toolkit.report.numbers import limits, number


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: Its text.
        limits: Interval or bound, written beside the text.
        order: Sort key; a cell with None comes last in either direction.
        tone: ``"bad"``, ``"good"``, ``"unsure"`` or empty.
    """

    text: str
    limits: str = ""
    order: float | str | None = None
    tone: str = ""

    @property
    def key(self) -> str | None:
        """Sort key for the script of the page, in which infinity is called ``Infinity``."""
        return (
            None if self.order is None else {"inf": "Infinity", "-inf": "-Infinity"}.get(text := str(self.order), text)
        )


@dataclass(frozen=True)
class Column:
    """Head of a column.

    Attributes:
        name: Its text.
        numeric: Whether the column is sorted as numbers.
        wide: Whether the column holds sentences.
    """

    name: str
    numeric: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: Its title.
        columns: Heads.
        rows: Body.
        foot: Rows that stay at the bottom in any order.
        marked: Indices of framed rows.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]] = ()
    marked: frozenset[int] = frozenset()


def words(value: Any) -> Cell:
    """Return a cell of text, sorted by its text."""
    return Cell(str(value), order=str(value))


def numeral(value: float, text: str | None = None) -> Cell:
    """Return a cell with one number, written as `text` or with two significant digits; NaN is a dash.

    >>> numeral(0.00623).text, numeral(float("nan")).text
    ('0.0062', '–')
    """
    if math.isnan(value):
        return Cell("–")
    return Cell(number(value) if text is None else text, order=float(value))


def estimate(row: Mapping[str, Any], name: str) -> Cell:
    """Return a cell with ``row[name]`` and its interval; NaN is the word "undefined".

    >>> estimate({"cor": 0.006, "cor_low": 0.005, "cor_high": 0.008}, "cor")
    Cell(text='0.006', limits='[0.005, 0.008]', order=0.006, tone='')
    """
    value, low, high = (float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return Cell("undefined") if math.isnan(value) else Cell(number(value), limits(low, high), value)


def plain(value: Any) -> str:
    """Write the value of a setting in words.

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


def value_table(caption: str, values: Mapping[str, Any]) -> Table:
    """Return a table of names and plain values."""
    rows = [[words(name), words(plain(value))] for name, value in values.items()]
    return Table(caption, (Column("name"), Column("value")), rows)
