"""What helps past the collapse radius: a plain warm start, a rising radius, ASAM, or a radius held under COR?

Question: does ``rho="cor"`` reach the accuracy of the best fixed radius without a sweep, and what does it cost?
Command: ``python -m analyses.collapse.collapse_controls`` (``--smoke``, ``--replot``, ``--families``).
Hardware: 2 CPU cores; resumes, and shares runs with the other scripts of the laboratory.
Obtained: ``cor`` with a safety of 0.5 trains all four runs; all controls are in ``analyses/README.md``.

Tables in ``figures/data``: ``collapse_controls_runs.csv`` (a row per run) and ``collapse_controls.csv`` (means over
seeds).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from analyses.collapse.collapse_controls_plot import plot_controls
from analyses.collapse.laboratory import BASE, SMOKE, collapsed, family_config, run_folder, train_all
from analyses.support.options import chosen_config
from analyses.support.runner import run_study
from analyses.support.tables import store
from gsnr_toolkit import TrainConfig
from gsnr_toolkit.training.config import COR
from gsnr_toolkit.training.run import read_result

RADII = (0.02, 0.05, 0.1, 0.2)
"""From safe to past the collapse of every family (``foretell_collapse``, whose runs these are)."""
PAST = (0.1, 0.2)
"""Radii tried with a warm start, and as the end of a rising schedule."""
ASAM_RADII = (0.2, 0.5, 1.0)
ESTIMATE_PASSES = 9
"""Upper limit on the passes over the samples of one COR estimate."""


def controls(family: str, *, smoke: bool = False) -> Iterator[tuple[str, TrainConfig]]:
    """Yield names and configs, without the seed, of what is compared on one family; for ``smoke`` of few steps."""
    base = family_config(family)
    if smoke:
        base = replace(base, **SMOKE, record_samples=64, cor_every=12)
    yield "plain", base
    yield from ((f"SAM {rho:g}", replace(base, rho=rho)) for rho in RADII)
    for rho in PAST:
        sam = replace(base, rho=rho)
        yield f"SAM {rho:g} after {base.steps // 2} plain steps", replace(sam, plain_steps=base.steps // 2)
        yield f"SAM rising to {rho:g}", replace(sam, rho_schedule="linear")
    for rho in ASAM_RADII:
        yield f"ASAM {rho:g}", replace(base, rho=rho, method="asam")
    for safety in (0.5, 1.0):
        yield f"COR, safety {safety:g}", replace(base, rho="cor", cor_safety=safety, rho_max=0.2)


def compute(chosen: argparse.Namespace) -> None:
    """Train what is missing, and write the tables after each run."""
    named = {
        replace(chosen_config(config, chosen), seed=seed): (family, name)
        for family in chosen.families
        for name, config in controls(family, smoke=chosen.smoke)
        for seed in range(chosen.seeds)
    }
    rows = []
    for config in train_all(list(named), chosen.runs, workers=chosen.workers, device=chosen.device):
        family, name = named[config]
        folder = run_folder(chosen.runs, config)
        found = read_result(folder, config)
        assert found is not None
        own = {"collapsed": collapsed(found), "passes": passes(config, pd.read_csv(folder / "log.csv")["rho"])}
        rows.append({"family": family, "control": name, **config.to_dict(), **found, **own})
        print(f"{family:<4} {name:<30} seed {config.seed}  AUC {found['test_auc']:.3f}  {found['status']}", flush=True)
        table = pd.DataFrame(rows).sort_values(["family", "control", "seed"])
        tables = {"_runs": table, "": summarise(table)}
        store(chosen.out, "collapse_controls", tables, digits=None, base=BASE.to_dict(), seeds=chosen.seeds)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds, one row per family and control, with the share of seeds that collapsed."""
    return (
        table.groupby(["family", "control"])
        .agg(
            num_seeds=("seed", "size"),
            test_auc=("test_auc", "mean"),
            auc_min=("test_auc", "min"),
            auc_max=("test_auc", "max"),
            train_loss=("train_loss", "mean"),
            share_collapsed=("collapsed", "mean"),
            rho_last=("rho_last", "mean"),
            passes=("passes", "mean"),
        )
        .reset_index()
    )


def passes(config: TrainConfig, rho: pd.Series) -> float:
    """Return how many forward and backward passes over a batch a step takes on average, given the radius at each step.

    Passes are counted, not timed, since runs share cores. A plain step takes one, a SAM step two. With ``rho="cor"``
    the estimates add their upper limit: per-sample gradients, gradients of the batches, four radii and three more.

    >>> passes(TrainConfig(rho=0.1, plain_steps=5), pd.Series([0.0, 0.1]))
    1.5
    """
    steps = float(np.where(rho > 0, 2, 1).mean())
    if config.rho != COR:
        return steps
    return steps + ESTIMATE_PASSES * config.record_samples / (config.batch_size * config.cor_every)


def main(arguments: list[str] | None = None) -> None:
    """Run the script."""
    run_study(compute, plot_controls, __doc__, arguments, families=("f2f", "nt"))


if __name__ == "__main__":
    main()
