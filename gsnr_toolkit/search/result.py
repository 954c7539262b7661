"""The result of a range test: a bracket, a suggestion, and every trial."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.report.numbers import number
from gsnr_toolkit.search.trial import BEYOND, Trial
from gsnr_toolkit.support.arguments import PATH, check_arguments
from gsnr_toolkit.support.atomic import make_folder, read_json, spelled, write_json, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULT, TRIALS = "rho.json", "trials.csv"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class RhoSearch:
    """Frozen result of :func:`gsnr_toolkit.find_rho`.

    Attributes:
        rho: Suggested radius; 0 if no radius that was tried trains.
        low: Largest radius that left the plateau in every seed, below ``high``; 0 if none did.
        high: Smallest radius that did not; infinity if all did.
        status: ``"found"``, ``"none_failed"``, ``"all_failed"``, ``"plain_stays"`` (the plain run does not leave the
            plateau), ``"budget"`` (the budget ended before the bracket was narrow) or ``"interrupted"``.
        plain_steps: Steps of the plain run on the plateau, the most over the seeds.
        plateau_loss: Loss of the best constant prediction.
        margin: Margin radius of the plain run, median over the seeds.
        passes: Forward and backward passes of all trials, the plain run's included.
        message: The answer in a sentence.
        trials: ``rho, seed, outcome, steps, steps_on_plateau, passes``, one row per trial, in order.
        settings: Every option that affects a number.
    """

    rho: float
    low: float
    high: float
    status: str
    plain_steps: int
    plateau_loss: float
    margin: float
    passes: int
    message: str
    trials: pd.DataFrame
    settings: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """Return a copy of the trials."""
        return self.trials.copy()

    def to_json(self) -> str:
        """Return everything as one JSON document; numbers that are not finite become text such as ``"inf"``."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "trials"}
        rows = self.trials.to_dict("records")
        return json.dumps(spelled({**values, "trials": rows}), indent=2, default=str, allow_nan=False)

    def plot(self) -> Figure:
        """Draw the steps on the plateau against the radius, with every outcome.

        Returns:
            A matplotlib figure.
        """
        from gsnr_toolkit.search.plot import plot_rho_search

        return plot_rho_search(self.trials, plain_steps=self.plain_steps, high=self.high, rho=self.rho)

    def save(self, folder: str | Path) -> Path:
        """Write ``rho.json`` and ``trials.csv``, each atomically.

        Args:
            folder: Created if missing; earlier results are replaced.

        Returns:
            The folder.
        """
        check_arguments(folder=(folder, PATH))
        place = Path(folder)
        make_folder(place)
        write_text(place / TRIALS, self.trials.to_csv(index=False, lineterminator="\n"))
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "trials"}
        write_json(place / RESULT, {"format": _FORMAT, **values})
        return place

    @classmethod
    def load(cls, folder: str | Path) -> RhoSearch:
        """Read a saved result.

        Args:
            folder: The folder that :meth:`save` wrote to.

        Returns:
            An equal result.

        Raises:
            ProbeError: If a file is missing or cannot be read.
        """
        check_arguments(folder=(folder, PATH))
        place = Path(folder)
        try:
            values = read_json(place / RESULT)
            if values.pop("format") == _FORMAT:
                return cls(**values, trials=pd.read_csv(place / TRIALS))
            cause, reason = None, "another version wrote them"
        except (OSError, ValueError, KeyError, TypeError) as error:
            cause, reason = error, str(error)
        raise ProbeError(
            f"expected {place} to hold {RESULT} and {TRIALS}, but they cannot be read ({reason}); give the folder that "
            "RhoSearch.save or find_rho(folder=...) wrote to"
        ) from cause


def trials_frame(trials: list[Trial]) -> pd.DataFrame:
    """Return trials as a table."""
    columns = [item.name for item in fields(Trial)]
    return pd.DataFrame([asdict(trial) for trial in trials], columns=columns)


SHARE = 0.1
"""Share of the failing radius that is suggested."""

SLOWEST = 2.0
"""A suggested radius leaves the plateau within so many times the plain run's steps."""


def suggested(low: float, high: float, margin: float, trials: list[Trial], plain_steps: int) -> float:
    """Return the suggested radius: a tenth of the failing one, and no more than what still leaves quickly.

    If none fails, the margin radius takes the place of the failing one.

    Args:
        low: Largest radius that trains.
        high: Smallest radius that fails; infinity if none does.
        margin: Margin radius of the plain run; NaN if unknown.
        trials: All trials.
        plain_steps: Steps of the plain run on the plateau.

    Returns:
        The radius, two significant digits; 0 if nothing trains.
    """
    if low <= 0:
        return 0.0
    quick = [trial.rho for trial in trials if 0 < trial.rho <= low and _is_quick(trial, plain_steps)]
    slow = [trial.rho for trial in trials if 0 < trial.rho <= low and not _is_quick(trial, plain_steps)]
    bound = high if high < math.inf else margin if margin > 0 else low
    most = min(SHARE * bound, low)
    below = [rho for rho in quick if rho < min(slow, default=math.inf)]
    if slow and most >= min(slow):
        most = max(below, default=min(slow) / 2)
    return float(f"{most:.2g}")


def _is_quick(trial: Trial, plain_steps: int) -> bool:
    return trial.outcome == "left" and trial.steps_on_plateau <= SLOWEST * max(plain_steps, 20)


_WORDS = {
    "delayed": "has not left it by the horizon", "fell_back": "falls back", "sank": "sinks", "diverged": "diverges",
}  # fmt: skip


def sentence(status: str, rho: float, low: float, high: float, trials: list[Trial], plain_steps: int) -> str:
    """Return the answer in a sentence.

    Args:
        status: Status of the search.
        rho: Suggested radius.
        low: Largest radius that trains.
        high: Smallest radius that fails.
        trials: All trials.
        plain_steps: Steps of the plain run on the plateau.
    """
    if status == "plain_stays":
        return (
            "the plain run does not leave the plateau, so no radius can be judged; raise the learning rate, give more "
            'steps, or look whether the model can learn these data at all; rho = "auto" takes plain steps until then'
        )
    parts = ["the model is beyond the plateau from the start"] if 0 < plain_steps < BEYOND else []
    if low > 0:
        most = max(t.steps_on_plateau for t in trials if t.rho == low)
        times = f", within {most / plain_steps:.1f} times the plain run's {plain_steps} steps" if plain_steps else ""
        verb = "stays there" if parts else f"leaves the plateau{times}"
        parts.append(f"rho <= {number(low)} {verb}")
    if high < math.inf:
        bad = next(t for t in trials if t.rho == high and t.outcome != "left")
        parts.append(f"{number(high)} {_WORDS[bad.outcome]}")
    elif low > 0:
        parts.append("no larger radius was tried")
    parts.append(
        f"suggested {rho:g}" if rho else 'no radius can be suggested: train plainly first, or with rho = "auto"'
    )
    text = "; ".join(parts)
    ends = {"budget": "the budget ended before the bracket was narrow", "interrupted": "interrupted"}
    return f"{ends[status]}: {text}" if status in ends else text
