"""Test AUC and training loss averaged over the seeds of a sweep: one row per setting and radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import entr
from scipy.stats import t as student_t

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.arguments import check_arguments, instance
from gsnr_toolkit.training.config import TrainConfig
from gsnr_toolkit.training.diagnosis import PLATEAU

__all__ = [
    "CHANCE",
    "COLLAPSED",
    "TRAINED",
    "UNDECIDED",
    "average_over_seeds",
    "plain_cor",
    "rows_of",
    "setting_columns",
    "usable_runs",
]

#: An AUC whose upper limit is below this is at chance.
CHANCE = 0.55

TRAINED, UNDECIDED, COLLAPSED = "trained", "undecided", "collapsed"

_NEEDED = ("rho", "seed", "status", "train_loss", "test_auc", "test_auc_low", "test_auc_high")
_FEWEST_FOR_T = 3

_MARGIN = 0.01
"""A run whose mean loss is not below ``PLATEAU - _MARGIN`` has learned hardly anything."""

HORIZON = 5.0
"""Multiple of the plain runs' time on the plateau within which a run must leave it."""

_WATCHING = ("record_every", "record_samples", "eval_every", "stop_dead")


_TABLE = instance(pd.DataFrame, "the table of a sweep", "pass what sweep() or read_table() returned")


def setting_columns(table: pd.DataFrame) -> list[str]:
    """List the columns that define a setting: every field of a training config except the radius and the seed.

    Fields that say only how a run is observed (``record_every``, ``record_samples``, ``eval_every``, ``stop_dead``) do
    not count, because often only the plain runs are recorded. They do count if some runs differ in nothing else.

    Args:
        table: A sweep's table.

    Returns:
        Names of columns of the table.
    """
    check_arguments(table=(table, _TABLE))
    names = [item.name for item in fields(TrainConfig) if item.name in table and item.name not in ("rho", "seed")]
    trained = [name for name in names if name not in _WATCHING]
    same = [name for name in (*trained, "rho", "seed") if name in table]
    return names if table.duplicated(same).any() else trained


def usable_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Select the finished runs at a fixed radius; drop failed runs and runs whose radius follows COR.

    Args:
        table: A sweep's table.

    Returns:
        A copy in which ``rho`` is a number. A detector without finite scores ranks nothing: it gets an AUC of 0.5 and
        the status ``"diverged"``.

    Raises:
        ProbeError: If a column is missing.
    """
    check_arguments(table=(table, _TABLE))
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise ProbeError(
            f"expected the table of a sweep, got one without {', '.join(missing)}; read it with read_table"
        )
    runs = table.assign(rho=pd.to_numeric(table["rho"], errors="coerce"))
    runs = runs[runs["rho"].notna() & (runs["status"] != "failed")]
    lost = runs["test_auc"].isna() | (runs["status"] == "diverged")
    aucs = {name: runs[name].mask(lost, 0.5) for name in ("test_auc", "test_auc_low", "test_auc_high")}
    return runs.assign(**aucs, status=runs["status"].mask(lost, "diverged"))


def average_over_seeds(
    table: pd.DataFrame, by: Sequence[str] | None = None, *, horizon: float = HORIZON
) -> pd.DataFrame:
    r"""Compute the mean test AUC at each radius of each setting, with a 95 % interval and a verdict.

    The seeds of a setting share their test images. The uncertainty due to the images (the half-width ``w`` of DeLong's
    interval) therefore does not shrink with the number of seeds k; that of the mean over seeds adds to it:

    .. math:: \bar a \pm \sqrt{(t_{k-1} s / \sqrt k)^2 + \bar w^2} \quad (k \ge 3).

    Two seeds say little about their spread (t would be 12.7): the interval then reaches from the smaller of their lower
    limits to the larger of their upper limits. One seed says nothing about it: the interval covers the images only.

    Args:
        table: A sweep's table.
        by: Columns that define a setting; :func:`setting_columns` when None.
        horizon: A run that has not left the plateau counts as failed only if it is at least so many times as long as
            the setting's runs without SAM stay there.

    Returns:
        One row per setting and radius: the setting, ``rho, num_seeds, num_diverged, num_short, outcome, auc, auc_low,
        auc_high, train_loss`` and ``state``. The state is ``"collapsed"`` if the upper limit of the AUC is below 0.55,
        or if no run's loss has left the plateau (ln 2 - 0.01, nats), unless a run is ``short``, that is, on the plateau
        and shorter than the horizon; otherwise ``"trained"`` if the lower limit is above 0.55; otherwise
        ``"undecided"``. The loss is ignored if so many labels are flipped (a share of 0.4 or more) that even the best
        detector's loss lies on the plateau. ``outcome`` lists what became of the runs.

    Raises:
        ProbeError: If a column is missing, or a setting has two runs with the same radius and seed.
    """
    runs = usable_runs(table)
    setting = list(setting_columns(table) if by is None else by)
    names = [*setting, "rho"]
    _check_distinct(runs, names)
    runs = runs.assign(short=_short(runs, [name for name in setting if name != "seed"], horizon))
    grouped = runs.groupby(names, dropna=False, sort=False)
    rows = [{**dict(zip(names, key, strict=True)), **_average(group)} for key, group in grouped]
    columns = [
        *names,
        "num_seeds",
        "num_diverged",
        "num_short",
        "outcome",
        "auc",
        "auc_low",
        "auc_high",
        "train_loss",
        "state",
    ]
    return pd.DataFrame(rows, columns=columns)


def plain_cor(runs: pd.DataFrame) -> tuple[float, float, float] | None:
    """Summarise COR of a setting's runs without SAM.

    Args:
        runs: The setting's runs.

    Returns:
        The median over seeds, and the lowest and highest limit of any seed; None if COR was not recorded, or no run
        had a signal.
    """
    if not {"cor", "cor_low", "cor_high", "cor_status"} <= set(runs.columns):
        return None
    plain = runs[(runs["rho"] == 0) & runs["cor_status"].isin(["ok", "above_max_radius"])]
    if plain.empty:
        return None
    cor, low, high = (plain[name].to_numpy(dtype=np.float64) for name in ("cor", "cor_low", "cor_high"))
    return float(np.median(cor)), float(low.min()), float(high.max())


def rows_of(frame: pd.DataFrame, setting: Mapping[str, Any]) -> pd.DataFrame:
    """Select the rows of one setting; missing values count as equal.

    Args:
        frame: A table with a column ``rho``.
        setting: Column to value.

    Returns:
        The rows, from the smallest radius to the largest.
    """
    keep = frame["rho"].notna()
    for name, value in setting.items():
        keep &= frame[name].isna() if value is None or value != value else frame[name] == value
    return frame[keep].sort_values("rho")


def _check_distinct(runs: pd.DataFrame, names: list[str]) -> None:
    missing = [name for name in names if name not in runs]
    if missing:
        raise ProbeError(f"expected by to name columns of the table, got {', '.join(missing)}; check the spelling")
    twice = runs.duplicated([*names, "seed"], keep=False)
    if not twice.any():
        return
    differing = [name for name in setting_columns(runs) if runs.loc[twice, name].nunique(dropna=False) > 1]
    hint = f"add {', '.join(differing)} to by" if differing else "remove the duplicate rows"
    raise ProbeError(f"expected one run per setting, radius and seed, got several; {hint}")


def _average(group: pd.DataFrame) -> dict[str, Any]:
    value, low, high = (
        group[name].to_numpy(dtype=np.float64) for name in ("test_auc", "test_auc_low", "test_auc_high")
    )
    mean, bottom, top = _interval(value, low, high)
    state = UNDECIDED
    if top < CHANCE or _stuck(group):
        state = UNDECIDED if group["short"].any() else COLLAPSED
    elif bottom > CHANCE:
        state = TRAINED
    return {
        "num_seeds": len(group),
        "num_diverged": int((group["status"] == "diverged").sum()),
        "num_short": int(group["short"].sum()),
        "outcome": ", ".join(sorted(set(group["outcome"].dropna()))) if "outcome" in group else "",
        "auc": mean,
        "auc_low": bottom,
        "auc_high": top,
        "train_loss": float(group["train_loss"].mean()),
        "state": state,
    }


def _short(runs: pd.DataFrame, setting: list[str], horizon: float) -> pd.Series:
    """Which runs are on the plateau, and too short to tell whether they would have left it."""
    never = pd.Series(data=False, index=runs.index)
    if not {"outcome", "steps_on_plateau", "steps_done"} <= set(runs.columns) or not setting:
        return never
    plain = runs[(runs["rho"] == 0) & (runs["outcome"] == "left")]
    if plain.empty:
        return never
    stay = plain.groupby(setting, dropna=False)["steps_on_plateau"].median().rename("stay")
    needed = horizon * runs[setting].merge(stay, how="left", left_on=setting, right_index=True)["stay"]
    return (needed.to_numpy() > runs["steps_done"]) & runs["outcome"].isin(["delayed", "fell_back"])


def _stuck(group: pd.DataFrame) -> bool:
    """Whether no run's loss has left the plateau; False if flipped labels keep any detector's loss there."""
    if "label_noise" in group:
        # The entropy of the flipped labels is the smallest loss that any detector can reach.
        share = group["label_noise"].to_numpy(dtype=np.float64)
        if bool((entr(share) + entr(1 - share) > PLATEAU - 2 * _MARGIN).any()):
            return False
    # Not "loss >= ...": a loss of NaN has not left the plateau either.
    return bool((~(group["train_loss"] < PLATEAU - _MARGIN)).all())


def _interval(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, float, float]:
    """Mean AUC over seeds with its 95 % limits; see :func:`average_over_seeds`."""
    mean, count = float(value.mean()), len(value)
    if count < _FEWEST_FOR_T:
        return mean, float(low.min()), float(high.max())
    seeds = float(student_t.ppf(0.975, count - 1)) * float(value.std(ddof=1)) / np.sqrt(count)
    below = float(np.hypot(seeds, (value - low).mean()))
    above = float(np.hypot(seeds, (high - value).mean()))
    return mean, max(0.0, mean - below), min(1.0, mean + above)
