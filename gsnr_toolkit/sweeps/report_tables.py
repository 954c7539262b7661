"""Tables of a sweep's page: collapse radii by setting, runs, and runs with problems."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gsnr_toolkit.report.numbers import cor_parts, limits, number
from gsnr_toolkit.report.pages.answer import BAD, GOOD, UNSURE
from gsnr_toolkit.report.pages.cells import Cell, Column, Table, numeral, plain, words
from gsnr_toolkit.sweeps.over_seeds import plain_cor, rows_of, setting_columns, usable_runs

if TYPE_CHECKING:
    import pandas as pd

_TONES = {"ok": BAD, "not_monotone": BAD, "never_collapsed": GOOD}
_RUN_TONES = {"ok": GOOD, "dead": BAD, "diverged": BAD, "failed": UNSURE}


def told_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns that tell the settings of a sweep apart: the data set, and whatever else varies."""
    return [name for name in setting_columns(table) if name == "data" or table[name].nunique(dropna=False) > 1]


def radius_table(radii: pd.DataFrame, table: pd.DataFrame) -> Table:
    """Return the empirical collapse radius of every setting, beside the COR of its runs without SAM.

    Args:
        radii: ``collapse_radii(table)``.
        table: Table of the sweep.
    """
    told, settings = told_columns(table), setting_columns(table)
    recorded = "cor" in table and bool(table["cor"].notna().any())
    columns = [Column(name) for name in told]
    columns += [Column("collapse radius", numeric=True)]
    columns += [Column("COR at rho = 0", numeric=True)] if recorded else []
    columns += [Column(name, numeric=True) for name in ("seeds", "runs", "radii")]
    columns += [Column("status"), Column("what it is", wide=True)]
    rows = []
    for row in radii.to_dict("records"):
        own = rows_of(usable_runs(table), {name: row[name] for name in settings})
        cor = [_cor(own)] if recorded else []
        counts = [numeral(float(row[name]), str(row[name])) for name in ("num_seeds", "num_runs", "num_radii")]
        told_cells = [words(plain(row[name])) for name in told]
        rows.append([*told_cells, _radius(row), *cor, *counts, words(row["status"]), words(row["message"])])
    noun = "setting" if len(rows) == 1 else "settings"
    caption = f"{len(rows)} {noun}; the interval is the bracket of the threshold, a range of the grid's radii"
    return Table(caption, columns, rows)


def _radius(row: Mapping[str, Any]) -> Cell:
    radius, tone = float(row["empirical_radius"]), _TONES.get(row["status"], UNSURE)
    if math.isnan(radius):
        return Cell("none", tone=tone)
    if math.isinf(radius):
        return Cell(f"> {row['largest_radius']:g}", order=math.inf, tone=tone)
    return Cell(f"{radius:g}", f"[{row['empirical_low']:g}, {row['empirical_high']:g}]", radius, tone)


def _cor(runs: pd.DataFrame) -> Cell:
    """Return the COR of the runs without SAM, the diamond of the figure; or the reason why there is none."""
    found = plain_cor(runs)
    if found is None:
        statuses = runs[runs["rho"] == 0]["cor_status"].dropna().astype(str)
        return Cell(", ".join(dict.fromkeys(statuses)) or "not recorded")
    middle, low, high = found
    return Cell(number(middle), limits(low, high), middle)


def run_table(table: pd.DataFrame, shown: Sequence[str]) -> Table:
    """Return every run that has ended, with its status.

    Args:
        table: Table of the sweep.
        shown: Settings that tell the runs apart.
    """
    recorded = "cor" in table and bool(table["cor"].notna().any())
    columns = [Column(name, numeric=name in ("rho", "seed")) for name in shown]
    columns += [Column("status"), Column("test AUC", numeric=True), Column("n test", numeric=True)]
    columns += [Column("train loss, nats", numeric=True), *([Column("COR", numeric=True)] if recorded else [])]
    columns += [Column("seconds", numeric=True), Column("message", wide=True), Column("folder in runs/")]
    rows = [_run_row(row, shown, recorded=recorded) for row in table.to_dict("records")]
    return Table(f"{len(rows)} runs that have ended", columns, rows)


def _run_row(row: Mapping[str, Any], shown: Sequence[str], *, recorded: bool) -> list[Cell]:
    status = str(row["status"])
    cells = [_setting(name, row[name]) for name in shown]
    cells += [Cell(status, order=status, tone=_RUN_TONES.get(status, UNSURE)), _auc(row), _count(row, "num_test")]
    cells += [_loss(row), *([_recorded_cor(row)] if recorded else [])]
    return [*cells, numeral(_get(row, "seconds")), words(_message(row)), words(row["key"])]


def _setting(name: str, value: Any) -> Cell:
    """Return the cell of a setting; ``rho`` may be the word "auto"."""
    if name in ("rho", "seed"):
        try:
            return numeral(float(value), f"{float(value):g}")
        except ValueError:
            return Cell(str(value))
    return words(plain(value))


def _get(row: Mapping[str, Any], name: str) -> float:
    return float(row.get(name, math.nan))


def _auc(row: Mapping[str, Any]) -> Cell:
    value, low, high = (_get(row, name) for name in ("test_auc", "test_auc_low", "test_auc_high"))
    if math.isnan(value):
        return Cell("none")
    return Cell(f"{value:.3f}", f"[{low:.3f}, {high:.3f}]", value)


def _count(row: Mapping[str, Any], name: str) -> Cell:
    value = _get(row, name)
    return Cell("–") if math.isnan(value) else numeral(value, f"{int(value):,}")


def _loss(row: Mapping[str, Any]) -> Cell:
    value = _get(row, "train_loss")
    return numeral(value, f"{value:.3f}")


def _recorded_cor(row: Mapping[str, Any]) -> Cell:
    if not isinstance(row.get("cor_status"), str):
        return Cell("not recorded")
    status = row["cor_status"]
    order = {"ok": row["cor"], "above_max_radius": math.inf}.get(status)
    # The table of a sweep does not say which radii were tried.
    return Cell(*cor_parts({**row, "status": status}, "above those tried"), order=order)


def _message(row: Mapping[str, Any]) -> str:
    message = row.get("message")
    return message if isinstance(message, str) else ""


@dataclass(frozen=True)
class Trouble:
    """Runs with the same problem.

    Attributes:
        told: Their number, and the problem.
        runs: Their names.
    """

    told: str
    runs: tuple[str, ...]


def troubled_runs(table: pd.DataFrame, names: Mapping[str, str], unfinished: Sequence[str]) -> list[Trouble]:
    """Group the runs that failed, died, diverged or have not ended by problem.

    Args:
        table: Table of the sweep.
        names: Key of a run to its name.
        unfinished: Names of runs that have not ended.

    Returns:
        One entry per problem and message; empty if every run has ended and trains.
    """
    status = table["status"]
    failed = table[status == "failed"].fillna({"message": "it gave no reason"})
    kinds = [(f"failed: {message}", rows) for message, rows in failed.groupby("message", sort=False)]
    kinds += [
        ("dead: the loss is still on the plateau of ln 2", table[status == "dead"]),
        ("diverged: the loss is not finite", table[status == "diverged"]),
    ]
    named = [(told, tuple(names.get(str(key), str(key)) for key in rows["key"])) for told, rows in kinds]
    named.append(("not ended yet", tuple(unfinished)))
    return [Trouble(f"{_count_of(runs)} {told}", runs) for told, runs in named if runs]


def _count_of(runs: Sequence[str]) -> str:
    return "1 run" if len(runs) == 1 else f"{len(runs)} runs"
