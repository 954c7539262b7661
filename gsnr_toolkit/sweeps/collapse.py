"""The empirical collapse radius: from which SAM radius on a setting's detectors are no better than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.sweeps.over_seeds import CHANCE, COLLAPSED, TRAINED, average_over_seeds, rows_of, setting_columns

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["collapse_radii"]

_FOUND = ("num_seeds", "num_runs", "num_radii", "largest_radius")
_ANSWER = ("empirical_radius", "empirical_low", "empirical_high", "status", "message")
_NONE = (math.nan, math.nan, math.nan)

_Curve = list[tuple[float, str]]


def collapse_radii(table: pd.DataFrame, by: Sequence[str] | None = None) -> pd.DataFrame:
    """Find the empirical collapse radius of every setting of a sweep.

    It is the smallest radius of the grid at which the detectors have *collapsed*: over the seeds, the upper 95 % limit
    of their test AUC is below 0.55, or no training loss has left the plateau of the constant predictor
    (:func:`gsnr_toolkit.sweeps.over_seeds.average_over_seeds` says how limits are taken over seeds).

    The true threshold lies between the radii of the grid, and differs from seed to seed. ``empirical_low`` and
    ``empirical_high`` enclose both: low is the last radius that trains for certain before the collapse, high the first
    collapsed one above all that train, each found for the seeds together and for each seed alone (of those that have
    a run at every radius); the lowest and the highest of these are reported. So the bracket is a range, not a
    confidence interval; it closes no further than the grid is fine, and widens with seeds that disagree. It begins at
    0 where no radius trains for certain, and ends at infinity where some seed has not collapsed.

    Args:
        table: A sweep's table; runs that failed, or whose radius follows COR, are left out.
        by: Columns that make a setting; every setting but the radius and the seed when None.

    Returns:
        One row per setting: its columns, ``num_seeds, num_runs, num_radii, largest_radius, empirical_radius,
        empirical_low, empirical_high, status, message``. The status is ``"ok"``; ``"not_monotone"``: a larger radius
        trains again, the radius is still the smallest that fails; ``"never_collapsed"``: infinity, and
        ``largest_radius`` was tried; ``"never_trained"``: NaN, since rho = 0 itself is at chance; ``"no_baseline"``:
        NaN, since the smallest radius is at chance and rho = 0 was not run; ``"no_runs"``: NaN.

    Raises:
        ProbeError: If a column is missing, or a setting has two runs of one radius and seed.

    >>> import pandas as pd
    >>> runs = pd.DataFrame({"data": "demo-nt", "rho": [0.0, 0.01, 0.05], "seed": 0, "status": "ok",
    ...     "train_loss": [0.2, 0.3, 0.693], "test_auc": [0.9, 0.8, 0.5],
    ...     "test_auc_low": [0.88, 0.77, 0.48], "test_auc_high": [0.92, 0.83, 0.52]})
    >>> collapse_radii(runs)[["empirical_radius", "empirical_low", "empirical_high", "status"]].values.tolist()
    [[0.05, 0.01, 0.05, 'ok']]
    """
    import pandas as pd

    names = setting_columns(table) if by is None else list(by)
    if not names:
        raise ProbeError("expected at least one column that makes a setting, such as 'data', got none")
    together = average_over_seeds(table, names)
    alone = average_over_seeds(table, [*names, "seed"])
    rows = []
    for key, all_runs in table.groupby(names, dropna=False, sort=False):
        at = dict(zip(names, key, strict=True))
        rows.append({**at, **_answer(rows_of(together, at), rows_of(alone, at), len(all_runs))})
    return pd.DataFrame(rows, columns=[*names, *_FOUND, *_ANSWER])


def _answer(together: pd.DataFrame, alone: pd.DataFrame, num_runs: int) -> dict[str, Any]:
    found = {"num_seeds": alone["seed"].nunique(), "num_runs": len(alone), "num_radii": len(together)}
    if together.empty:
        found |= {"largest_radius": math.nan}
        return found | _row(_NONE, "no_runs", f"undefined: none of {num_runs} runs at a set radius has come to an end")
    curve = _curve(together)
    found |= {"largest_radius": curve[-1][0]}
    if curve[0][1] == COLLAPSED:
        if curve[0][0] == 0:
            return found | _row(_NONE, "never_trained", f"undefined: {_untrained(together.iloc[0])}")
        return found | _row(
            _NONE,
            "no_baseline",
            f"undefined: at chance at rho = {curve[0][0]:g}, the smallest; run rho = 0 to see whether it trains at all",
        )
    seeds = [_curve(rows) for _, rows in alone.groupby("seed")]
    untrained = [seed for seed in seeds if seed[0] == (0.0, COLLAPSED)]
    # a seed that never trains, or still lacks radii, says nothing about where training ends
    whole = [seed for seed in seeds if seed not in untrained and len(seed) == len(curve)]
    first, brackets = _bracket(curve)[1], [_bracket(each) for each in [curve, *whole]]
    limits = (first, min(low for low, _, _ in brackets), max(high for _, _, high in brackets))
    status = "never_collapsed" if math.isinf(first) else "ok"
    if any(state == TRAINED for rho, state in curve if rho > first):
        status = "not_monotone"
    notes = _notes(together, len(untrained), min((bracket[1] for bracket in brackets), default=first))
    return found | _row(limits, status, "; ".join([_sentence(limits, status, together, len(seeds)), *notes]))


def _curve(rows: pd.DataFrame) -> _Curve:
    return [(float(rho), str(state)) for rho, state in zip(rows["rho"], rows["state"], strict=True)]


def _bracket(curve: _Curve) -> tuple[float, float, float]:
    """Last radius that trains before the first collapsed one; that one; the first collapsed above all that train."""
    first = min((rho for rho, state in curve if state == COLLAPSED), default=math.inf)
    trained = [rho for rho, state in curve if state == TRAINED]
    low = max((rho for rho in trained if rho < first), default=0.0)
    last = max(trained, default=0.0)
    high = min((rho for rho, state in curve if state == COLLAPSED and rho > last), default=math.inf)
    return low, first, high


def _row(limits: tuple[float, float, float], status: str, message: str) -> dict[str, Any]:
    return dict(zip(_ANSWER, (*limits, status, message), strict=True))


def _sentence(limits: tuple[float, float, float], status: str, together: pd.DataFrame, num_seeds: int) -> str:
    first, low, high = limits
    largest = together.iloc[-1]
    seeds = f"{num_seeds} seeds" if num_seeds > 1 else "one seed, so the spread over seeds is not known"
    if status == "never_collapsed":
        text = f"no collapse up to rho = {largest['rho']:g}, the largest tried ({seeds})"
        if largest["state"] != TRAINED:
            text += f"; there it is undecided ({_auc(largest)}): more seeds or test images would tell"
        return text
    here = together[together["rho"] == first].iloc[0]
    text = f"collapses at rho = {first:g} ({_auc(here)}); the threshold is between {low:g} and {high:g} ({seeds})"
    again = [f"{row.rho:g}" for row in together.itertuples() if row.rho > first and row.state == TRAINED]
    return f"{text}; not monotone: it trains again at rho = {', '.join(again)}" if again else text


def _untrained(row: pd.Series) -> str:
    if row["auc_low"] > CHANCE:
        return f"without SAM the training loss stays at ln 2 ({_auc(row)}); train longer, or at a larger learning rate"
    return f"at chance without SAM ({_auc(row)})"


def _notes(together: pd.DataFrame, num_untrained: int, earliest: float) -> list[str]:
    """What a reader must know besides."""
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
    if together["num_seeds"].nunique() > 1:
        notes.append("some radii have fewer seeds than others")
    return notes


def _auc(row: pd.Series) -> str:
    return f"AUC {row['auc']:.3f} [{row['auc_low']:.3f}, {row['auc_high']:.3f}], loss {row['train_loss']:.3f}"
