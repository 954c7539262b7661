"""What the margin saves in ``find_rho``: passes against a bisection that knows nothing, and against a sweep.

Command: ``python -m benchmarks.range_test`` (two minutes on two cores).

The same runs, stopped by the same rule, serve all three, so only the choice of radii differs. The bisection begins with
the bracket from 1e-3 to 10, whose ends it does not try; the sweep trains at every radius of a geometric grid over the
same range up to the horizon. All end with a bracket of ratio 1.5. Passes are counted, not timed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from analyses.radius.settings import SETTINGS, Problem
from analyses.radius.trials import plateau_of_problem, start_of
from gsnr_toolkit import find_rho
from gsnr_toolkit.search.trial import StopRule

NAMES = ("digits-mlp", "digits-deep", "digits-resnet", "parity-mlp", "cancer-mlp", "diabetes-mlp", "operator-mlp")
LOWEST, HIGHEST, PRECISION, HORIZON, FEWEST = 1e-3, 10.0, 1.5, 5, 100


@dataclass(frozen=True)
class Cost:
    """Passes, and the bracket that they bought."""

    passes: int
    low: float
    high: float


def searched(problem: Problem, plateau: float) -> tuple[Cost, int]:
    """Return the cost of ``find_rho``, and the plain run's steps on the plateau."""
    found = find_rho(
        problem.model, problem.loader(), problem.loss, problem.sam(0.0), plateau_loss=plateau, precision=PRECISION,
        horizon=HORIZON, progress=False,
    )  # fmt: skip
    return Cost(found.passes, found.low, found.high), found.plain_steps


def bisected(problem: Problem, plateau: float, plain_steps: int) -> Cost:
    """Return the cost of a bisection over the whole range; the plain run that gives the horizon is counted."""
    start, passes = start_of(problem, plateau), plain_steps
    horizon = max(FEWEST, HORIZON * plain_steps)
    low, high = LOWEST, HIGHEST
    while high / low > PRECISION:
        middle = math.sqrt(low * high)
        trial, _ = start.run(middle, 0, StopRule(horizon, plain_steps, horizon + 10 * FEWEST))
        passes += trial.passes
        low, high = (middle, high) if trial.outcome == "left" else (low, middle)
    return Cost(passes, low, high)


def swept(plain_steps: int) -> int:
    """Return the passes of a sweep whose grid has the same precision."""
    radii = math.ceil(math.log(HIGHEST / LOWEST) / math.log(PRECISION)) + 1
    return max(FEWEST, HORIZON * plain_steps) * (1 + 2 * radii)


def main() -> None:
    """Measure and print the table."""
    table = Table(title="passes to a bracket of ratio 1.5")
    for name in ("setting", "find_rho", "bracket", "bisection", "bracket ", "sweep"):
        table.add_column(name, justify="left" if name == "setting" else "right")
    for name in NAMES:
        problem = SETTINGS[name].build(0)
        plateau = plateau_of_problem(problem)
        found, plain_steps = searched(problem, plateau)
        blind = bisected(problem, plateau, plain_steps)
        brackets = [f"{cost.low:.2g} to {cost.high:.2g}" for cost in (found, blind)]
        table.add_row(name, str(found.passes), brackets[0], str(blind.passes), brackets[1], str(swept(plain_steps)))
    Console().print(table)


if __name__ == "__main__":
    main()
