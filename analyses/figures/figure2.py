"""Figure 2: test AUC against the SAM radius, COR as a diamond on each curve, and the range around 0.05 enlarged.

Claim (the paper's Figure 2): AUC falls to chance once rho exceeds a threshold that COR marks; on the least semantic
family that threshold lies below the usual rho = 0.05. Command: ``python -m analyses.figures.figure2`` (``--replot``,
``--smoke``). Hardware: 2 CPU cores; no run of its own beside finished runs of ``foretell_collapse``, seconds. Obtained
(embedded data): nt fails from 0.1 [0.035, 0.1] on, f2f 0.1 [0.05, 0.1], df 0.14 [0.05, 0.14], fs 0.14 [0.07, 0.14].
COR (two seeds): nt .025, .005; f2f .042, .009; df .037, .034; fs .063, .061. Families fail in the order of COR, at 1.6
to 5 times its mean: it marks no threshold of AUC by itself. Table: ``figures/data/figure2.csv``, a row per run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analyses.collapse.laboratory import explore, table
from analyses.collapse.recordings import family_settings
from analyses.support.families import data_words, family_of
from analyses.support.figure import caption_line, save_figure
from analyses.support.runner import run_study
from analyses.support.tables import read_table, store
from gsnr_toolkit.report.plots.style import MUTED, TEXT_WIDTH, in_paper_style, new_figure
from gsnr_toolkit.sweeps.figure import plot_auc_radius

ZOOM = (0.015, 0.13)

PLACES = ("df", "f2f", "fs", "-", "--", "nt")
"""Families by their place in the palette, so that colours agree with those of the other figures."""

_KEPT = [
    "setting", "model", "data", "strength", "tuning", "lr", "batch_size", "steps", "rho", "seed", "key", "status",
    "steps_done", "train_loss", "test_auc", "test_auc_low", "test_auc_high", "num_test", "cor", "cor_low", "cor_high",
    "cor_status", "cor_step", "seconds",
]  # fmt: skip


def compute(chosen: argparse.Namespace) -> None:
    """Train what is missing, and write the table."""
    wanted = family_settings(chosen)
    for line in explore(wanted, chosen.seeds, chosen.runs, workers=chosen.workers, device=chosen.device):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    runs = table(wanted, chosen.seeds, chosen.runs).reindex(columns=_KEPT)
    store(chosen.out, "figure2", {"": runs}, configs=[item.config.to_dict() for item in wanted], seeds=chosen.seeds)


def plot(out: Path) -> None:
    """Draw the figure from the table stored in a folder."""
    runs = read_table(out, "figure2")
    names = list(runs["data"].drop_duplicates())
    caption = caption_line(
        data_words(names),
        f"{', '.join(runs['model'].drop_duplicates())}, all parameters trained",
        f"n = {int(runs['num_test'].max())} test images of each run",
        f"{runs['seed'].nunique()} seeds (dots)",
        "lines: mean, bars: 95 % intervals",
        "diamonds: median COR of the plain runs",
    )
    save_figure(draw(runs), out, "figure2", caption)


@in_paper_style
def draw(runs: pd.DataFrame) -> Figure:
    """Draw AUC over the whole range and around the usual radius; ``runs`` has a row per run."""
    runs = runs.drop(columns=["strength", "lr", "setting", "batch_size", "steps"], errors="ignore")
    order = sorted(runs["data"].unique(), key=lambda name: ["df", "fs", "f2f", "nt"].index(family_of(name)))
    runs = pd.concat([runs[runs["data"] == name] for name in order], ignore_index=True)
    prefix = "demo-" if order[0].startswith("demo-") else ""
    palette = [prefix + name for name in PLACES]
    figure = new_figure(TEXT_WIDTH, 3.1)
    whole, near = figure.subplots(1, 2, width_ratios=(1.45, 1))
    for ax, title in ((whole, "(a) Whole span; dashed box: enlarged in (b)"), (near, "(b) Around the usual radius")):
        plot_auc_radius(runs, title=title, note=False, legend=False, names=palette, ax=ax)
    _zoom(near, whole)
    handles = whole.get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside upper left", ncols=5, fontsize=6.5, columnspacing=1.2)
    return figure


def _zoom(near: Axes, whole: Axes) -> None:
    near.set_xlim(*ZOOM)
    ticks = [0.02, 0.035, 0.05, 0.07, 0.1]
    near.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    near.set_ylabel("")
    for line in near.get_lines():
        if line.get_gid() == "axis_break":
            line.remove()
    low, high = whole.get_ylim()
    bottom, top = 0.05 * (high - low) + low, high - 0.02 * (high - low)
    box = Rectangle(
        (ZOOM[0], bottom), ZOOM[1] - ZOOM[0], top - bottom, fill=False, edgecolor=MUTED, linestyle=(0, (3, 2)),
        linewidth=0.8, zorder=6,
    )  # fmt: skip
    whole.add_patch(box)


def main(arguments: list[str] | None = None) -> None:
    """Run the script with command-line arguments; None reads those of the process."""
    run_study(compute, plot, __doc__, arguments)


if __name__ == "__main__":
    main()
