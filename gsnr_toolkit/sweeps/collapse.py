"""The empirical collapse radius: the smallest SAM radius at which a setting's detectors are no better than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.arguments import POSITIVE, Kind, check_arguments
from gsnr_toolkit.sweeps.over_seeds import (
    CHANCE,
    COLLAPSED,
    HORIZON,
    TRAINED,
    average_over_seeds,
    rows_of,
    setting_columns,
)

__all__ = ["collapse_radii"]

_FOUND = ("num_seeds", "num_runs", "num_radii", "largest_radius", "outcome")
_ANSWER = ("empirical_radius", "empirical_low", "empirical_high", "status", "message")

_Curve = list[tuple[float, str]]
"""Radii and their states, increasing."""


_COLUMNS = Kind(
    "a list of columns or None",
    lambda value: value is None or (isinstance(value, Sequence) and not isinstance(value, str)),
    "pass by=['data'], or leave it out",
)


def collapse_radii(table: pd.DataFrame, by: Sequence[str] | None = None, *, horizon: float = HORIZON) -> pd.DataFrame:
    """Find the empirical collapse radius of every setting of a sweep.

    It is the smallest radius of the grid at which the detectors have *collapsed*: the upper 95 % limit of their test
    AUC, over the seeds, is below 0.55, or no run's training loss has left the plateau of the constant predictor
    (:func:`gsnr_toolkit.sweeps.over_seeds.average_over_seeds` defines the limits over seeds). A run that is on the
    plateau has collapsed only if it is at least ``horizon`` times as long as the runs without SAM stay there: until
    then it may be slow, and the radius is undecided. Tables without the time on the plateau, of earlier versions, are
    judged by the end of their runs.

    The true threshold lies between radii of the grid and differs from seed to seed. ``empirical_low`` and
    ``empirical_high`` bracket both. The lower end is the last radius before the collapse that certainly trains; the
    upper end is the first collapsed radius above all that train. Both are found for the seeds together and for each
    seed alone (of the seeds with a run at every radius); the lowest and the highest value are reported. The bracket is
    therefore a range, not a confidence interval. It is never narrower than the spacing of the grid, and it widens when
    seeds disagree. It starts at 0 if no radius certainly trains, and ends at infinity if some seed has not collapsed.

    Args:
        table: A sweep's table. Failed runs, and runs whose radius follows COR, are ignored.
        by: Columns that define a setting; all settings except the radius and the seed when None.
        horizon: Multiple of the plain runs' time on the plateau within which a run must leave it.

    Returns:
        One row per setting: its columns, ``num_seeds, num_runs, num_radii, largest_radius, outcome`` (what became of
        the runs at the collapse radius), ``empirical_radius, empirical_low, empirical_high, status, message``. The
        status is one of ``"ok"``; ``"not_monotone"``: a larger radius trains again, and the radius is still the
        smallest that fails; ``"never_collapsed"``: the radius is infinity, and ``largest_radius`` is the largest one
        tried; ``"never_trained"``: NaN, because rho = 0 itself is at chance; ``"no_baseline"``: NaN, because the
        smallest radius is at chance and rho = 0 was not run; ``"no_runs"``: NaN.

    Raises:
        ProbeError: If a column is missing, or a setting has two runs with the same radius and seed.

    >>> runs = pd.DataFrame({"data": "demo-nt", "rho": [0.0, 0.01, 0.05], "seed": 0, "status": "ok",
    ...     "train_loss": [0.2, 0.3, 0.693], "test_auc": [0.9, 0.8, 0.5],
    ...     "test_auc_low": [0.88, 0.77, 0.48], "test_auc_high": [0.92, 0.83, 0.52]})
    >>> collapse_radii(runs)[["empirical_radius", "empirical_low", "empirical_high", "status"]].values.tolist()
    [[0.05, 0.01, 0.05, 'ok']]
    """
    check_arguments(by=(by, _COLUMNS), horizon=(horizon, POSITIVE))
    names = setting_columns(table) if by is None else list(by)
    if not names:
        raise ProbeError(
            "expected at least one column that defines a setting, got none; pass by=['data'], or leave by out"
        )
    together = average_over_seeds(table, names, horizon=horizon)
    alone = average_over_seeds(table, [*names, "seed"], horizon=horizon)
    rows = []
    for key, all_runs in table.groupby(names, dropna=False, sort=False):
        at = dict(zip(names, key, strict=True))
        rows.append({**at, **_answer(rows_of(together, at), rows_of(alone, at), len(all_runs))})
    return pd.DataFrame(rows, columns=[*names, *_FOUND, *_ANSWER])


@dataclass(frozen=True)
class _Bracket:
    """Where a curve collapses.

    Attributes:
        low: The last radius that trains before the first collapsed one; 0 if none does.
        first: The first collapsed radius; infinity if none is.
        high: The first collapsed radius above all that train; infinity if there is none.
    """

    low: float
    first: float
    high: float

    @classmethod
    def of(cls, curve: _Curve) -> _Bracket:
        collapsed = [rho for rho, state in curve if state == COLLAPSED]
        trained = [rho for rho, state in curve if state == TRAINED]
        first = min(collapsed, default=math.inf)
        low = max((rho for rho in trained if rho < first), default=0.0)
        last = max(trained, default=0.0)
        return cls(low, first, min((rho for rho in collapsed if rho > last), default=math.inf))


def _answer(together: pd.DataFrame, alone: pd.DataFrame, num_runs: int) -> dict[str, Any]:
    """Row of a setting, from its averages over seeds and from each seed alone."""
    curve = _curve(together)
    largest = curve[-1][0] if curve else math.nan
    fates = together.loc[together["state"] == COLLAPSED, "outcome"]
    outcome = str(fates.iloc[0]) if len(fates) else ""
    found = dict(zip(_FOUND, (alone["seed"].nunique(), len(alone), len(together), largest, outcome), strict=True))
    undefined = _why_undefined(together, num_runs)
    if undefined is not None:
        return found | _row((math.nan, math.nan, math.nan), *undefined)
    seeds = [_curve(rows) for _, rows in alone.groupby("seed")]
    untrained = [seed for seed in seeds if seed[0] == (0.0, COLLAPSED)]
    # A seed that never trains, or still lacks radii, says nothing about where training ends.
    whole = [seed for seed in seeds if seed not in untrained and len(seed) == len(curve)]
    first = _Bracket.of(curve).first
    brackets = [_Bracket.of(each) for each in [curve, *whole]]
    limits = (first, min(each.low for each in brackets), max(each.high for each in brackets))
    status = "never_collapsed" if math.isinf(first) else "ok"
    if any(state == TRAINED for rho, state in curve if rho > first):
        status = "not_monotone"
    notes = _notes(together, len(untrained), min(each.first for each in brackets))
    return found | _row(limits, status, "; ".join([_sentence(limits, status, together, len(seeds)), *notes]))


def _why_undefined(together: pd.DataFrame, num_runs: int) -> tuple[str, str] | None:
    """Status and message if there is no radius to report."""
    if together.empty:
        return "no_runs", f"undefined: none of {num_runs} runs at a fixed radius has finished"
    smallest = together.iloc[0]
    if smallest["state"] != COLLAPSED:
        return None
    if smallest["rho"] != 0:
        rho = f"rho = {smallest['rho']:g}"
        return (
            "no_baseline",
            f"undefined: at chance at {rho}, the smallest; run rho = 0 to see whether it trains at all",
        )
    if smallest["auc_low"] > CHANCE:
        hint = "train longer, or use a larger learning rate"
        return "never_trained", f"undefined: without SAM the training loss stays at ln 2 ({_auc(smallest)}); {hint}"
    return "never_trained", f"undefined: at chance without SAM ({_auc(smallest)})"


def _curve(rows: pd.DataFrame) -> _Curve:
    return [(float(rho), str(state)) for rho, state in zip(rows["rho"], rows["state"], strict=True)]


def _row(limits: tuple[float, float, float], status: str, message: str) -> dict[str, Any]:
    return dict(zip(_ANSWER, (*limits, status, message), strict=True))


def _sentence(limits: tuple[float, float, float], status: str, together: pd.DataFrame, num_seeds: int) -> str:
    """The radius and its bracket in words."""
    first, low, high = limits
    largest = together.iloc[-1]
    seeds = f"{num_seeds} seeds" if num_seeds > 1 else "one seed, so the spread over seeds is not known"
    if status == "never_collapsed":
        text = f"no collapse up to rho = {largest['rho']:g}, the largest tried ({seeds})"
        if largest["state"] != TRAINED:
            text += f"; there it is undecided ({_auc(largest)}): add seeds or test images"
        return text
    here = together[together["rho"] == first].iloc[0]
    text = f"collapses at rho = {first:g} ({_auc(here)}); the threshold is between {low:g} and {high:g} ({seeds})"
    again = [f"{row.rho:g}" for row in together.itertuples() if row.rho > first and row.state == TRAINED]
    return f"{text}; not monotone: it trains again at rho = {', '.join(again)}" if again else text


def _notes(together: pd.DataFrame, num_untrained: int, earliest: float) -> list[str]:
    """Caveats to report beside the radius; ``earliest`` is the smallest radius at which any seed collapses."""
    notes = []
    collapsed = together.loc[together["state"] == COLLAPSED, "rho"]
    if earliest < collapsed.min() or (collapsed.empty and not math.isinf(earliest)):
        notes.append(f"single seeds collapse from rho = {earliest:g}")
    smallest = together.iloc[0]
    if smallest["state"] != TRAINED:
        notes.append(f"already at rho = {smallest['rho']:g} not clearly above chance ({_auc(smallest)})")
    if num_untrained:
        notes.append(f"{num_untrained} of the seeds did not train without SAM either")
    if together["num_diverged"].any():
        notes.append(f"{int(together['num_diverged'].sum())} runs diverged and count as chance")
    if together["num_short"].any():
        count = int(together["num_short"].sum())
        notes.append(f"{count} runs on the plateau are too short to count: they may be slow, so train longer")
    if together["num_seeds"].nunique() > 1:
        notes.append("some radii have fewer seeds than others")
    return notes


def _auc(row: pd.Series) -> str:
    return f"AUC {row['auc']:.3f} [{row['auc_low']:.3f}, {row['auc_high']:.3f}], loss {row['train_loss']:.3f}"
