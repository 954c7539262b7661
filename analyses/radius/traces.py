"""Two runs step by step: one that leaves the plateau and falls back, and one with ``rho="auto"``.

Question: what does a run at too large a radius do, and what does the rule do instead?
Command: ``python -m analyses.radius.traces`` (``--smoke``, ``--replot``).
Hardware: 1 CPU core, under a minute.
Obtained: at rho = 1 the small vision transformer leaves the plateau and falls back; ``rho="auto"`` trains it.

Tables in ``figures/data``: ``radius_traces.csv`` (a row per run and step).
"""

from __future__ import annotations

import argparse

import pandas as pd
import torch

from analyses.radius.plots import plot_traces
from analyses.radius.settings import SETTINGS, Problem
from analyses.radius.trials import plateau_of_problem
from analyses.support.runner import run_study
from analyses.support.tables import store
from gsnr_toolkit.inputs.loaders import endless_batches
from gsnr_toolkit.inputs.preserve import preserved_rng, restored_parameters
from gsnr_toolkit.optim.margin import MarginRadius

SETTING, RHO, STEPS = "digits-vit", 1.0, 600


def compute(chosen: argparse.Namespace) -> None:
    """Train plainly, at a large radius, and with the rule, from the same weights."""
    steps = 60 if chosen.smoke else STEPS
    problem = SETTINGS[SETTING].build(0)
    plateau = plateau_of_problem(problem)
    runs: dict[str, float | MarginRadius] = {"plain": 0.0, "fixed": RHO, "auto": MarginRadius(plateau)}
    table = pd.concat([trace(problem, rho, steps).assign(run=name) for name, rho in runs.items()], ignore_index=True)
    store(chosen.out, "radius_traces", {"": table.assign(plateau_loss=plateau)}, setting=SETTING, rho=RHO)


def trace(problem: Problem, rho: float | MarginRadius, steps: int) -> pd.DataFrame:
    """Train, and return loss, gradient norm and radius of each step; the model is given back."""
    loader, rows = problem.loader(), []
    with preserved_rng(loader, seed=0), restored_parameters(problem.model, problem.loss):
        optimizer = problem.sam(rho)
        optimizer.watch_norm = True
        batches = endless_batches(loader)
        for step in range(steps):
            batch = next(batches)

            def closure(batch: tuple[torch.Tensor, ...] = batch) -> torch.Tensor:
                loss = problem.loss(problem.model, batch).mean()
                loss.backward()
                return loss.detach()

            loss = float(optimizer.step(closure))
            rows.append({"step": step, "loss": loss, "grad_norm": optimizer.grad_norm, "rho": max(optimizer.radii)})
        batches.close()
    return pd.DataFrame(rows)


def main(arguments: list[str] | None = None) -> None:
    """Run the script."""
    run_study(compute, plot_traces, __doc__, arguments)


if __name__ == "__main__":
    main()
