"""What helps past the collapse radius: a plain warm start, a rising radius, ASAM, or a radius held under COR?

Question: does ``rho="auto"`` train at the accuracy of the best fixed radius without a sweep, and what does it cost?
Command: ``python -m analyses.collapse.collapse_controls`` (``--smoke`` for a minute). It goes on where it was stopped and shares
its runs with the other scripts of the laboratory. Tables: ``figures/data/collapse_controls_runs.csv`` (a row per run)
and ``collapse_controls.csv`` (means over seeds). Figure: ``figures/collapse_controls``.

Obtained (``f2f`` and ``nt``, 2 seeds): at 0.1, where all four runs are dead, a plain warm start or a rising radius
saves three; ASAM trains at 0.2; ``auto`` with a safety of 0.5 trains all four, three at the best fixed radius's
accuracy, and with a safety of 1 one of four. Its estimates cost 1.3 passes a step beside SAM's 2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.collapse.collapse_controls_plot import plot_controls
from analyses.collapse.laboratory import BASE, collapsed, family_config, run_by_family, run_folder, train_all
from gsnr_toolkit import TrainConfig
from gsnr_toolkit.support.atomic import write_json, write_text
from gsnr_toolkit.support.provenance import environment
from gsnr_toolkit.training.config import AUTO
from gsnr_toolkit.training.run import read_result

RADII = (0.02, 0.05, 0.1, 0.2)
"""From safe to past the collapse of every family (``foretell_collapse``, whose runs these are)."""
PAST = (0.1, 0.2)
"""Radii that are tried with a warm start and rising."""
ASAM_RADII = (0.2, 0.5, 1.0)
ESTIMATE_PASSES = 9
"""Passes over the samples of an estimate of COR, at most."""


def controls(family: str, *, smoke: bool = False) -> Iterator[tuple[str, TrainConfig]]:
    """What is compared on one family.

    Args:
        family: Such as ``"df"``.
        smoke: Few steps.

    Yields:
        Name and config, without the seed.
    """
    base = family_config(family)
    if smoke:
        base = replace(
            base, steps=24, train_samples=64, eval_samples=64, batch_size=8, record_samples=64, auto_every=12
        )
    yield "plain", base
    yield from ((f"SAM {rho:g}", replace(base, rho=rho)) for rho in RADII)
    for rho in PAST:
        sam = replace(base, rho=rho)
        yield f"SAM {rho:g} after {base.steps // 2} plain steps", replace(sam, plain_steps=base.steps // 2)
        yield f"SAM rising to {rho:g}", replace(sam, rho_schedule="linear")
    for rho in ASAM_RADII:
        yield f"ASAM {rho:g}", replace(base, rho=rho, method="asam")
    for safety in (0.5, 1.0):
        yield f"auto, safety {safety:g}", replace(base, rho="auto", auto_safety=safety, auto_max=0.2)


def compute(
    families: list[str],
    seeds: int,
    runs: Path,
    out: Path,
    *,
    smoke: bool,
    workers: int,
    device: str | None,
    fitted: Callable[[TrainConfig], TrainConfig],
) -> None:
    """Train what is missing, and write the tables.

    Args:
        families: Which families.
        seeds: Number of seeds.
        runs: Where runs are kept.
        out: Folder of the tables.
        smoke: Few steps.
        workers: Processes at a time.
        device: Where to train.
        fitted: Puts a config on the chosen model and data.
    """
    out.mkdir(parents=True, exist_ok=True)
    named = {
        replace(fitted(config), seed=seed): (family, name)
        for family in families
        for name, config in controls(family, smoke=smoke)
        for seed in range(seeds)
    }
    rows = []
    for config in train_all(list(named), runs, workers=workers, device=device):
        family, name = named[config]
        found = read_result(run_folder(runs, config), config)
        assert found is not None
        cost = passes(config, pd.read_csv(run_folder(runs, config) / "log.csv")["rho"])
        own = {"collapsed": collapsed(found), "passes": cost}
        rows.append({"family": family, "control": name, **config.to_dict(), **found, **own})
        sys.stdout.write(f"{family:<4} {name:<30} seed {config.seed}  AUC {found['test_auc']:.3f}  {found['status']}\n")
        sys.stdout.flush()
        table = pd.DataFrame(rows).sort_values(["family", "control", "seed"])
        write_text(out / "collapse_controls_runs.csv", table.to_csv(index=False))
        write_text(out / "collapse_controls.csv", summarise(table).to_csv(index=False))
    write_json(out / "collapse_controls.json", {**environment(), "base": BASE.to_dict(), "seeds": seeds})


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds.

    Args:
        table: One row per run.

    Returns:
        One row per family and control: mean AUC, its range over seeds, the share of seeds that collapsed, the last
        radius, and the mean of :func:`passes`.
    """
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
    """Forward and backward passes over a batch that a step takes on average: counted, since runs share cores.

    A step without a radius takes one, SAM's two. With ``rho="auto"`` the estimates come on top, at their most:
    per-sample gradients, the batches' own, four radii and three more.

    Args:
        config: The run's config.
        rho: The radius at every step that was made.

    Returns:
        Passes per step; 1 for a plain run.

    >>> passes(TrainConfig(rho=0.1, plain_steps=5), pd.Series([0.0, 0.1]))
    1.5
    """
    steps = float(np.where(rho > 0, 2, 1).mean())
    if config.rho != AUTO:
        return steps
    return steps + ESTIMATE_PASSES * config.record_samples / (config.batch_size * config.auto_every)


def main(arguments: list[str] | None = None) -> None:
    """Run the script.

    Args:
        arguments: Of the command line; those of the process when None.
    """
    run_by_family(compute, __doc__, arguments, plot_controls)


if __name__ == "__main__":
    main()
