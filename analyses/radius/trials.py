"""The failing radius of a setting and seed, with a horizon in units of the plain run's time on the plateau."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from analyses.radius import candidates
from analyses.radius.plain import PlainTrace, plain_run
from analyses.radius.settings import Problem, Setting
from gsnr_toolkit import find_rho
from gsnr_toolkit import plateau_loss as plateau_of
from gsnr_toolkit.search.bracket import bracket
from gsnr_toolkit.search.trial import Start, StopRule, Trial

HORIZON = 5.0
"""A run must leave the plateau for good within so many times the plain run's time on it."""

FEWEST = 100
"""The shortest horizon, steps."""

PRECISION = 1.25
FAILED_GAIN = 0.3
"""A run that has gained less than this share of the plain run's gain by the horizon has not learned."""

_AFTER, _WINDOW = 150, 20
_NEVER = 10**9
_NOTHING = dict.fromkeys(("low", "high", "gain_low", "gain_high"), math.nan)
_PER_SWEEP = math.ceil(math.log(10 / 1e-3) / math.log(PRECISION)) + 1
"""Radii of a sweep from 1e-3 to 10 that finds a bracket of the same width."""


def plateau_of_problem(problem: Problem) -> float:
    """Loss of the best constant prediction on the training data."""
    return plateau_of(problem.loader(), problem.loss, model=problem.model)


def start_of(problem: Problem, plateau: float) -> Start:
    """Where every trial of a problem starts."""
    return Start(problem.model, problem.loader(), problem.loss, problem.sam, plateau, progress=False)


def study_unit(setting: Setting, seed: int) -> dict[str, Any]:
    """Study one setting with one seed: plain run, candidates, failing radius, and the range test."""
    problem = setting.build(seed)
    plateau = plateau_of_problem(problem)
    run = plain_run(problem, plateau)
    unit: dict[str, Any] = {
        "setting": setting.name, "seed": seed, "plateau_loss": plateau, "plain_left_at": run.left_at,
        "plain_score": run.score, "plain_loss": float(sum(run.losses[-20:]) / 20),
    }  # fmt: skip
    if run.left_at is None:
        return unit | {"trials": [], **_NOTHING, "outcome": "plain_stays"}
    unit |= candidates.from_plain(run, plateau)
    trials = failing_radius(problem, plateau, run, guess=unit["margin_q50"])
    small = 0.1 * unit["margin_q50"]
    _, trace = start_of(problem, plateau).run(small, seed, StopRule(_NEVER, _NEVER, max(FEWEST, 3 * run.left_at)))
    unit |= candidates.from_sam(trace, plateau)
    unit |= candidates.from_probe(problem, max(30, min(3 * run.left_at, setting.steps)))
    return unit | trials | _range_test(problem, plateau)


def horizon_of(left_at: int) -> float:
    """Steps within which a run must have left, from the plain run's."""
    return max(FEWEST, HORIZON * left_at)


def failing_radius(problem: Problem, plateau: float, run: PlainTrace, guess: float) -> dict[str, Any]:
    """Bracket the smallest radius that has not left for good by the horizon; no run is stopped earlier."""
    start, made = start_of(problem, plateau), dict[float, tuple[Trial, float]]()
    horizon = math.ceil(horizon_of(run.left_at or 0))

    def run_at(rho: float) -> tuple[Trial, float]:
        if rho not in made:
            trial, trace = start.run(rho, problem.seed, StopRule(horizon, _NEVER, horizon + _AFTER))
            made[rho] = trial, _gain_share(trace.losses, run.losses, plateau, horizon)
        return made[rho]

    limits = {"precision": PRECISION, "smallest": guess / 64, "largest": guess * 16}
    low, high = bracket(lambda rho: run_at(rho)[0].outcome != "left", guess, **limits)
    first = math.sqrt(low * high) if 0 < low < high < math.inf else guess
    gain_low, gain_high = bracket(lambda rho: run_at(rho)[1] < FAILED_GAIN, first, **limits)
    trials = [{**asdict(trial), "gain_share": share} for trial, share in made.values()]
    return {
        "trials": trials, "low": low, "high": high, "outcome": _outcome([trial for trial, _ in made.values()], high),
        "gain_low": gain_low, "gain_high": gain_high, "sweep_passes": horizon * (1 + 2 * _PER_SWEEP),
    }  # fmt: skip


def _gain_share(losses: list[float], plain: list[float], plateau: float, horizon: int) -> float:
    """Gain over the plateau at the horizon, as a share of the plain run's; of its last gain if that is shorter."""
    ends = [values[max(0, min(horizon, len(values)) - _WINDOW) : horizon] for values in (losses, plain)]
    gains = [plateau - sum(values) / len(values) for values in ends]
    return gains[0] / gains[1] if gains[1] > 0 and math.isfinite(gains[0]) else 0.0


def _outcome(made: list[Trial], high: float) -> str:
    return next((trial.outcome for trial in made if trial.rho == high), "none_failed")


def _range_test(problem: Problem, plateau: float) -> dict[str, Any]:
    found = find_rho(
        problem.model, problem.loader(), problem.loss, problem.sam(0.0), horizon=HORIZON, plateau_loss=plateau,
        precision=PRECISION, progress=False,
    )  # fmt: skip
    return {
        "find_low": found.low, "find_high": found.high, "find_rho": found.rho, "find_passes": found.passes,
        "find_status": found.status,
    }  # fmt: skip
