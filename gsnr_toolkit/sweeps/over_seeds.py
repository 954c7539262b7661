"""Test AUC and training loss of a sweep over its seeds: one row per setting and radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.training.config import TrainConfig
from gsnr_toolkit.training.diagnosis import MARGIN, PLATEAU

if TYPE_CHECKING:
    import pandas as pd

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

#: An AUC that is certain to lie below this is chance.
CHANCE = 0.55

TRAINED, UNDECIDED, COLLAPSED = "trained", "undecided", "collapsed"

_NEEDED = ("rho", "seed", "status", "train_loss", "test_auc", "test_auc_low", "test_auc_high")
_FEWEST_FOR_T = 3
_WATCHING = ("record_every", "record_samples", "eval_every", "stop_dead")


def setting_columns(table: pd.DataFrame) -> list[str]:
    """Columns that make a setting: every field of a training config but the radius and the seed.

    What only says how a run is watched (``record_every``, ``record_samples``, ``eval_every``, ``stop_dead``) does not
    make a setting: plain runs may be recorded and the others not. Unless runs differ in nothing else.

    Args:
        table: A sweep's table.

    Returns:
        Those that the table has.
    """
    names = [item.name for item in fields(TrainConfig) if item.name in table and item.name not in ("rho", "seed")]
    trained = [name for name in names if name not in _WATCHING]
    same = [name for name in (*trained, "rho", "seed") if name in table]
    return names if table.duplicated(same).any() else trained


def usable_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Runs at a radius that was set, and that came to an end; those that follow COR, or failed, are left out.

    Args:
        table: A sweep's table.

    Returns:
        A copy in which ``rho`` is a number, and a detector without finite scores, which ranks nothing, has an AUC of
        0.5 and the status ``"diverged"``.

    Raises:
        ProbeError: If a column is missing.
    """
    import pandas as pd

    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise ProbeError(f"expected the table of a sweep, got one without {', '.join(missing)}; read it by read_table")
    runs = table.assign(rho=pd.to_numeric(table["rho"], errors="coerce"))
    runs = runs[runs["rho"].notna() & (runs["status"] != "failed")]
    lost = runs["test_auc"].isna() | (runs["status"] == "diverged")
    aucs = {name: runs[name].mask(lost, 0.5) for name in ("test_auc", "test_auc_low", "test_auc_high")}
    return runs.assign(**aucs, status=runs["status"].mask(lost, "diverged"))


def average_over_seeds(table: pd.DataFrame, by: Sequence[str] | None = None) -> pd.DataFrame:
    r"""Mean test AUC at each radius of each setting, with a 95 % interval, and what it says.

    The seeds of a setting share their test images. So the uncertainty that comes from the images, half-width ``w`` of
    DeLong's interval, does not fall with the number of seeds k, and that of the mean over seeds adds to it:

    .. math:: \bar a \pm \sqrt{(t_{k-1} s / \sqrt k)^2 + \bar w^2} \quad (k \ge 3).

    Two seeds tell little about their spread (t would be 12.7): the interval then reaches from the lower limit of the
    one to the upper limit of the other. One seed tells nothing about it: the interval is its own, over images alone.

    Args:
        table: A sweep's table.
        by: Columns that make a setting; :func:`setting_columns` when None.

    Returns:
        One row per setting and radius: the setting, ``rho, num_seeds, num_diverged, auc, auc_low, auc_high,
        train_loss`` and ``state``: ``"collapsed"`` if the AUC is certain to be below 0.55, or if no run's loss has
        left the plateau (ln 2 - 0.01, nats); else ``"trained"`` if the AUC is certain to be above 0.55; else
        ``"undecided"``. Where so many labels are wrong on purpose (a share of 0.4 or more) that the best detector's
        loss lies on the plateau, the loss does not count.

    Raises:
        ProbeError: If a column is missing, or a setting has two runs of one radius and seed.
    """
    import pandas as pd

    runs = usable_runs(table)
    names = [*(setting_columns(table) if by is None else by), "rho"]
    _check_distinct(runs, names)
    grouped = runs.groupby(names, dropna=False, sort=False)
    rows = [{**dict(zip(names, key, strict=True)), **_average(group)} for key, group in grouped]
    columns = [*names, "num_seeds", "num_diverged", "auc", "auc_low", "auc_high", "train_loss", "state"]
    return pd.DataFrame(rows, columns=columns)


def plain_cor(runs: pd.DataFrame) -> tuple[float, float, float] | None:
    """COR of a setting's runs without SAM.

    Args:
        runs: The setting's runs.

    Returns:
        Median over seeds, the lowest limit of any seed, and the highest; None where COR was not recorded, or no run
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
    """The rows of one setting by radius; a missing value equals a missing value.

    Args:
        frame: A table with a column ``rho``.
        setting: Column to value.

    Returns:
        Its rows, from the smallest radius to the largest.
    """
    keep = frame["rho"].notna()
    for name, value in setting.items():
        keep &= frame[name].isna() if value is None or value != value else frame[name] == value
    return frame[keep].sort_values("rho")


def _check_distinct(runs: pd.DataFrame, names: list[str]) -> None:
    missing = [name for name in names if name not in runs]
    if missing:
        raise ProbeError(f"expected by to name columns of the table, got {', '.join(missing)}")
    twice = runs.duplicated([*names, "seed"], keep=False)
    if not twice.any():
        return
    differing = [name for name in setting_columns(runs) if runs.loc[twice, name].nunique(dropna=False) > 1]
    hint = f"add {', '.join(differing)} to by" if differing else "give each run once"
    raise ProbeError(f"expected one run of a setting, radius and seed, got several; {hint}")


def _average(group: pd.DataFrame) -> dict[str, Any]:
    value, low, high = (
        group[name].to_numpy(dtype=np.float64) for name in ("test_auc", "test_auc_low", "test_auc_high")
    )
    mean, bottom, top = _interval(value, low, high)
    state = UNDECIDED
    if top < CHANCE or _stuck(group):
        state = COLLAPSED
    elif bottom > CHANCE:
        state = TRAINED
    return {
        "num_seeds": len(group),
        "num_diverged": int((group["status"] == "diverged").sum()),
        "auc": mean,
        "auc_low": bottom,
        "auc_high": top,
        "train_loss": float(group["train_loss"].mean()),
        "state": state,
    }


def _stuck(group: pd.DataFrame) -> bool:
    """Whether no run has left the plateau; unknown, so no, where wrong labels keep any detector's loss there."""
    from scipy.special import entr

    if "label_noise" in group:
        share = group["label_noise"].to_numpy(dtype=np.float64)
        if bool((entr(share) + entr(1 - share) > PLATEAU - 2 * MARGIN).any()):
            return False
    return bool((~(group["train_loss"] < PLATEAU - MARGIN)).all())


def _interval(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, float, float]:
    mean, count = float(value.mean()), len(value)
    if count < _FEWEST_FOR_T:
        return mean, float(low.min()), float(high.max())
    from scipy.stats import t

    seeds = float(t.ppf(0.975, count - 1)) * float(value.std(ddof=1)) / np.sqrt(count)
    below = float(np.hypot(seeds, (value - low).mean()))
    above = float(np.hypot(seeds, (high - value).mean()))
    return mean, max(0.0, mean - below), min(1.0, mean + above)
