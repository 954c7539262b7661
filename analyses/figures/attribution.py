"""Why layers differ in COR: its logarithm split into signal, curvature and size of the gradient.

Claim (the paper's theorem, as an identity): ``log COR = log r/(1+r) - log m - log |mu|``, layer by layer; the paper
names the attenuation of GSNR, the first term, as the root cause. Command: ``python -m analyses.figures.attribution``
(``--replot``, ``--smoke``). Hardware: as ``figure3``, whose table it reads. Obtained (embedded data, readout heads): on
nt the signal accounts for 1.0 and 0.6 of the variance of log COR over layers (two seeds), on df for -0.5 and 0.1: there
curvature and gradient size do. With own parameters these two mostly dominate and cancel. Tables:
``figures/data/recordings.csv`` and ``attribution.csv`` (shares of the variance of log COR over layers).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analyses.collapse.recordings import READINGS, TABLE, TOTAL, weakest_step
from analyses.collapse.recordings import compute as record
from analyses.support.families import FAMILIES
from analyses.support.figure import MEASURED, caption_line, save_figure
from analyses.support.runner import run_study
from analyses.support.tables import read_table, store
from gsnr_toolkit.report.plots.attribution import plot_attribution
from gsnr_toolkit.report.plots.style import TEXT_WIDTH, dress, in_paper_style, new_figure

TERMS = {"signal_fraction": 1.0, "misspecification": -1.0, "grad_norm": -1.0}
"""Factors of COR, and the sign of their logarithms."""


def compute(chosen: argparse.Namespace) -> None:
    """Record what is missing, and write both tables."""
    recorded = record(chosen)
    store(chosen.out, "attribution", {"": shares(recorded)}, seeds=chosen.seeds)


def shares(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each factor in the variance of log COR over layers, at the step of the smallest COR.

    ``Var(log COR) = sum_k Cov(term_k, log COR)``, so the shares add up to 1; a share may be negative.

    Args:
        recorded: The recordings.

    Returns:
        One row per reading, family and seed.
    """
    rows = []
    for (reading, family, seed), run in recorded.groupby(["reading", "family", "seed"], sort=False):
        step = weakest_step(run)
        layers = run[(run["step"] == step) & (run["group"] != TOTAL) & (run["status"] == "ok")]
        layers = layers[np.isfinite(layers["cor"]) & layers["cor"].gt(0)]
        terms = {name: sign * np.log(layers[name].to_numpy(dtype=float)) for name, sign in TERMS.items()}
        whole = np.asarray(sum(terms.values()))
        spread = float(np.var(whole)) if len(layers) > 2 else np.nan
        found = {f"share_{name}": float(np.cov(term, whole, ddof=0)[0, 1]) / spread for name, term in terms.items()}
        rows.append({"reading": reading, "family": family, "seed": seed, "step": step, "layers": len(layers), **found})
    return pd.DataFrame(rows)


def plot(out: Path) -> None:
    """Draw the figure from the tables stored in a folder."""
    recorded = read_table(out, TABLE)
    caption = caption_line(
        "; ".join(recorded["caption"].drop_duplicates()),
        f"n = {int(recorded['num_samples'].max())} images",
        "step of the smallest COR, of the seed with a COR for most layers",
        "bars multiply up to the dot; 95 % intervals",
    )
    save_figure(draw(recorded), out, "attribution", caption)


@in_paper_style
def draw(recorded: pd.DataFrame) -> Figure:
    """Draw the least and the most semantic family in both readings."""
    families = [name for name in FAMILIES if name in set(recorded["family"])]
    figure = new_figure(TEXT_WIDTH, 5.6)
    grid = figure.subplots(len(READINGS), 2, squeeze=False)
    for axes, (reading, words) in zip(grid, READINGS.items(), strict=True):
        for ax, family in zip(axes, (families[0], families[-1]), strict=True):
            own = recorded[(recorded["reading"] == reading) & (recorded["family"] == family)]
            seed, layers = max(_at_weakest(own), key=lambda found: int((found[1]["status"] == "ok").sum()))
            step = int(layers["step"].iloc[0])
            plot_attribution(layers, MEASURED, step=step, note=False, ax=ax)
            dress(ax, title=f"{family}, seed {seed}, step {step}", note=words)
    return figure


def _at_weakest(rows: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """Return each seed with its layers at the step of the smallest COR."""
    runs = [(int(str(seed)), run, weakest_step(run)) for seed, run in rows.groupby("seed")]
    return [
        (seed, run[(run["step"] == step) & (run["group"] != TOTAL)].reset_index(drop=True)) for seed, run, step in runs
    ]


def main(arguments: list[str] | None = None) -> None:
    """Run the script with command-line arguments; None reads those of the process."""
    run_study(compute, plot, __doc__, arguments)


if __name__ == "__main__":
    main()
