"""Which rule for SAM's radius trains everywhere, and how close is it to the best fixed radius?

Question: does ``rho="auto"``, given no number, train in all settings and end as well as the best of a sweep?
Command: ``python -m analyses.radius.controllers``, after ``analyses.radius.study`` (``--smoke``, ``--replot``).
Hardware: 1 CPU core, about an hour; resumes, and writes its tables after every setting.
Obtained: see ``analyses/README.md``.

Tables in ``figures/data``: ``radius_controllers.csv`` (a row per run) and ``radius_controllers_summary.csv`` (a row per
rule and set of settings).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from analyses.radius.plots import plot_controllers
from analyses.radius.rules import FIXED, Control, Known, controls, set_radius
from analyses.radius.settings import HELD_OUT, SETTINGS, Problem
from analyses.radius.study import add_options, chosen_settings
from analyses.radius.trials import plateau_of_problem
from analyses.support.runner import run_study
from analyses.support.tables import read_table, store
from gsnr_toolkit.inputs.loaders import endless_batches
from gsnr_toolkit.inputs.preserve import preserved_rng, restored_parameters
from gsnr_toolkit.support.atomic import read_json, write_json
from gsnr_toolkit.training.auto_rho import AutoRho
from gsnr_toolkit.training.diagnosis import PlateauWatch
from gsnr_toolkit.types import Batch

FEWEST, TIMES = 300, 8
"""A run has so many steps, and so many times the plain run's on the plateau."""

SHARPNESS_SHARE, SHARPNESS_BATCHES = 0.25, 8

COR_PASSES = 9 * 8 / 50
"""Passes a step that following COR costs at most: nine over eight mini-batches, every 50 steps."""

DRAWS = 2000


def compute(chosen: argparse.Namespace) -> None:
    """Train what is missing, and write the tables after each setting and seed."""
    failing = read_table(chosen.out, "radius_study").set_index("setting")
    rows: list[dict[str, Any]] = []
    for name, seed in chosen_settings(chosen):
        path = Path(chosen.runs) / "controllers" / f"{name}_{seed}.json"
        if name not in failing.index or not failing["failing_radius"][name] > 0:
            print(f"{name}: no failing radius is stored; run analyses.radius.study first", flush=True)
            continue
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, train_all(SETTINGS[name].build(seed), failing.loc[name]))
        rows += read_json(path)
        print(f"{name:<20} seed {seed}  done", flush=True)
        table = pd.DataFrame(with_best_fixed(rows))
        store(chosen.out, "radius_controllers", {"": table, "_summary": summarise(table)}, held_out=sorted(HELD_OUT))


def train_all(problem: Problem, setting: pd.Series) -> list[dict[str, Any]]:
    """Train with every rule; the setting's row has the plain run's steps on the plateau and the failing radius."""
    left_at = int(setting["plain_steps"])
    steps = max(FEWEST, TIMES * left_at)
    known = Known(
        plateau_of_problem(problem), float(setting["failing_radius"]), left_at, steps, problem.setting.perturb
    )
    return [run_control(problem, control, known) for control in controls(known)]


def run_control(problem: Problem, control: Control, known: Known) -> dict[str, Any]:
    """Train with one rule, and give the model back."""
    setting, watch, passes, sam_passes = problem.setting, PlateauWatch(known.plateau), 0.0, 0
    loader = problem.loader()
    with preserved_rng(loader, seed=problem.seed), restored_parameters(problem.model, problem.loss):
        optimizer = control.build(problem)
        optimizer.watch_norm = True
        batches = endless_batches(loader)
        for step in range(known.steps):
            loss, count = _step(problem, optimizer, control, step, next(batches))
            watch.add(loss, optimizer.grad_norm)
            passes, sam_passes = passes + count, sam_passes + (count == 2)
        batches.close()
        if isinstance(optimizer._controller, AutoRho):
            passes += COR_PASSES * known.steps
        score, rho_last = problem.score(), max(optimizer.radii)
        sharpness = _sharpness(problem, SHARPNESS_SHARE * known.failing)
    return {
        "setting": setting.name, "kind": setting.kind, "held_out": setting.name in HELD_OUT, "seed": problem.seed,
        "controller": control.name, "rho_max": control.rho_max, "trained": watch.left_at is not None, "score": score,
        "passes": passes / known.steps, "sam_passes": sam_passes / known.steps, "sharpness": sharpness,
        "rho_last": rho_last, "steps": known.steps, "loss": watch.loss,
    }  # fmt: skip


def _step(problem: Problem, optimizer: Any, control: Control, step: int, batch: Batch) -> tuple[float, int]:
    """Take one step; return the loss and the number of passes."""
    passes = 0

    def closure() -> torch.Tensor:
        nonlocal passes
        passes += 1
        loss = problem.loss(problem.model, batch).mean()
        loss.backward()
        return loss.detach()

    if control.rule is None:
        return float(optimizer.step(closure)), passes
    optimizer.zero_grad()
    loss = float(closure())
    norm = float(torch.stack([p.grad.norm() for p in optimizer._perturbed if p.grad is not None]).norm())
    set_radius(optimizer, control.rule(step, norm))
    if optimizer.first_step():
        closure()
    optimizer.second_step()
    return loss, passes


def _sharpness(problem: Problem, rho: float) -> float:
    """Mean rise of the loss of training batches under an ascent of all parameters."""
    rises = []
    loader = problem.loader()
    with preserved_rng(loader, seed=0):
        for _, batch in zip(range(SHARPNESS_BATCHES), loader, strict=False):
            rises.append(_rise(problem, batch, rho))
    return float(np.mean(rises))


def _rise(problem: Problem, batch: Batch, rho: float) -> float:
    params = [param for param in problem.model.parameters() if param.requires_grad]
    loss = problem.loss(problem.model, batch).mean()
    gradient = torch.autograd.grad(loss, params, allow_unused=True)
    norm = torch.stack([part.norm() for part in gradient if part is not None]).norm()
    if not norm > 0:
        return 0.0
    with torch.no_grad():
        kept = [param.clone() for param in params]
        for param, part in zip(params, gradient, strict=True):
            if part is not None:
                param.add_(part, alpha=float(rho / norm))
        risen = float(problem.loss(problem.model, batch).mean())
        for param, old in zip(params, kept, strict=True):
            param.copy_(old)
    return risen - float(loss.detach())


def with_best_fixed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the score of the fixed radius that is best on the test data, over the seeds of the setting."""
    table = pd.DataFrame(rows)
    fixed = table[table["controller"].isin([f"fixed {share:g}" for share in FIXED])]
    means = fixed.groupby(["setting", "controller"])["score"].mean()
    best = means.groupby(level=0).idxmax().map(lambda pair: pair[1])
    scores = fixed.set_index(["setting", "seed", "controller"])["score"]
    return [
        {**row, "best_fixed": best[row["setting"]],
         "best_fixed_score": float(scores[row["setting"], row["seed"], best[row["setting"]]])}
        for row in rows
    ]  # fmt: skip


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Summarise each rule over all settings, over the held-out ones and over the others."""
    parts = {"all": table, "held out": table[table["held_out"]], "not held out": table[~table["held_out"]]}
    rows = [
        {"settings": name, "controller": controller, **_summary(group)}
        for name, part in parts.items()
        for controller, group in part.groupby("controller", sort=False)
    ]
    return pd.DataFrame(rows)


def _summary(group: pd.DataFrame) -> dict[str, float]:
    share = binomtest(int(group["trained"].sum()), len(group)).proportion_ci(method="exact")
    gap = (group["score"].clip(lower=0) - group["best_fixed_score"].clip(lower=0)).groupby(group["setting"]).mean()
    low, high = _bootstrap(gap.to_numpy())
    return {
        "num_runs": len(group), "num_settings": len(gap), "trained": float(group["trained"].mean()),
        "trained_low": float(share.low), "trained_high": float(share.high), "gap": float(gap.mean()), "gap_low": low,
        "gap_high": high, "gap_median": float(gap.median()), "passes": float(group["passes"].mean()),
    }  # fmt: skip


def _bootstrap(values: np.ndarray) -> tuple[float, float]:
    """Percentile interval of a mean over settings."""
    if len(values) < 3:
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (DRAWS, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def main(arguments: list[str] | None = None) -> None:
    """Run the script."""
    run_study(compute, plot_controllers, __doc__, arguments, add_options=add_options)


if __name__ == "__main__":
    main()
