"""Stored tables: CSV files with a JSON file that says where the numbers come from, and summaries over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from gsnr_toolkit.support.atomic import write_json, write_text
from gsnr_toolkit.support.provenance import environment

DIGITS = "%.6g"


def store(out: Path, name: str, tables: Mapping[str, pd.DataFrame], *, digits: Any = DIGITS, **settings: Any) -> None:
    """Write tables as CSV, and their provenance as JSON.

    Args:
        out: Folder, created if missing.
        name: Common beginning of the file names.
        tables: Suffix to table: ``""`` is written to ``NAME.csv``, ``"_x"`` to ``NAME_x.csv``.
        digits: Format of floats; None writes every digit.
        **settings: What determined the numbers, for ``NAME.json``.
    """
    out.mkdir(parents=True, exist_ok=True)
    for suffix, table in tables.items():
        write_text(out / f"{name}{suffix}.csv", table.to_csv(index=False, float_format=digits))
    write_json(out / f"{name}.json", {**environment(), **settings})


def read_table(out: Path, name: str) -> pd.DataFrame:
    """Return the stored table ``NAME.csv``; empty fields are NaN.

    Raises:
        FileNotFoundError: The table has not been computed yet.
    """
    path = out / f"{name}.csv"
    if not path.exists():
        raise FileNotFoundError(f"expected the table {path}, but it is missing; run the script without --replot first")
    return pd.read_csv(path)


def over_seeds(table: pd.DataFrame, by: Sequence[str], quantity: str) -> pd.DataFrame:
    """Return the mean of a quantity over seeds by group, with an interval that covers the intervals of all seeds.

    Two or three seeds say little about their spread, and the interval of one seed covers sampling error alone. The
    honest range therefore extends from the lowest limit (``_low``) to the highest (``_high``). A row per group holds
    these and ``num_seeds``; they are NaN if a seed has no value.
    """
    low, high = f"{quantity}_low", f"{quantity}_high"
    grouped = table.groupby(list(by), sort=False)
    values = {quantity: (quantity, "mean"), low: (low, "min"), high: (high, "max")}
    found = grouped.agg(num_seeds=(quantity, "size"), known=(quantity, "count"), **values).reset_index()
    found.loc[found["known"] < found["num_seeds"], [quantity, low, high]] = np.nan
    return found.drop(columns="known")


def margin(values: pd.Series) -> float:
    """Half-width of the 95 % interval (t) of a mean over seeds; NaN for fewer than three."""
    if len(values) < 3:
        return float("nan")
    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
