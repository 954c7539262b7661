"""Figure 3: GSNR over training steps, by family at the last block and by layer on the least semantic family.

Claim (the paper's Figure 3): GSNR of the last block is lowest on the least semantic family, and falls from layer to
layer there. Command: ``python -m analyses.figures.figure3`` (``--replot``, ``--smoke``). Hardware: 2 CPU cores, 10
minutes beside finished plain runs of ``foretell_collapse``. Obtained (embedded data): before training leaves the
plateau nt and f2f are lowest (readout, step 80: .0000 and .0007 against df .011, fs .16); after it df is lowest (step
240: .02 against .16 to .38). On nt GSNR falls from block 1 to 6 while training leaves the plateau (readout, seed 0,
step 160: .0014 to .0002; step 200: .011 to .0025); later seed 0 has no order, and seed 1 continues to fall. Own
parameters show no order. Table: ``figures/data/recordings.csv``. Figures: ``figure3`` (GSNR) and ``figure3_cor`` (the
same for COR), both readings of "layer-wise" one above the other.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.collapse.recordings import READINGS, TABLE, TOTAL, weakest_step
from analyses.collapse.recordings import compute as record
from analyses.support.families import COLORS, FAMILIES, MARKERS
from analyses.support.figure import MEASURED, caption_line, save_figure
from analyses.support.runner import run_study
from analyses.support.tables import over_seeds, read_table
from gsnr_toolkit.report.plots.frames import BottleneckLike, find_bottleneck
from gsnr_toolkit.report.plots.labels import legend_below
from gsnr_toolkit.report.plots.marks import (
    cor_axis,
    diamond_style,
    edge_markers,
    gsnr_axis,
    line_with_band,
    noise_floor_line,
)
from gsnr_toolkit.report.plots.style import TEXT_WIDTH, dress, in_paper_style, new_figure
from gsnr_toolkit.report.plots.trajectory import NAMES as QUANTITIES
from gsnr_toolkit.report.plots.trajectory import plot_trajectory


def compute(chosen: argparse.Namespace) -> None:
    """Record what is missing, and write the table."""
    record(chosen)


def plot(out: Path) -> None:
    """Draw both figures from the table stored in a folder."""
    recorded = read_table(out, TABLE)
    low, high = int(recorded["num_samples"].min()), int(recorded["num_samples"].max())
    seeds = recorded["seed"].nunique()
    first = {
        "gsnr": f"(a) mean of {seeds} seeds, bands: from the lowest 95 % limit to the highest",
        "cor": f"(a) each of {seeds} seeds (dashed: the second), bars: 95 % intervals, circles at the edge: no signal",
    }
    for quantity, name in (("gsnr", "figure3"), ("cor", "figure3_cor")):
        caption = caption_line(
            "; ".join(recorded["caption"].drop_duplicates()),
            f"n = {low if low == high else f'{low} to {high}'} images",
            first[quantity],
            f"(b) seed {recorded['seed'].min()}, 95 % bands",
            "diamonds: step of the whole model's smallest COR, in (a) the one next to the seeds' median",
        )
        save_figure(draw(recorded, quantity), out, name, caption)


@in_paper_style
def draw(recorded: pd.DataFrame, quantity: str) -> Figure:
    """Draw a quantity over steps in both readings.

    Args:
        recorded: The recordings.
        quantity: ``"gsnr"`` or ``"cor"``.

    Returns:
        The figure, two columns wide.
    """
    families = [name for name in FAMILIES if name in set(recorded["family"])]
    figure = new_figure(TEXT_WIDTH, 6.0)
    grid = figure.subplots(len(READINGS), 2, squeeze=False, width_ratios=(1, 1.15))
    for (left, right), (reading, words) in zip(grid, READINGS.items(), strict=True):
        rows = recorded[recorded["reading"] == reading]
        draw_families(left, rows, quantity, families, words)
        draw_depth(right, rows[rows["family"] == families[-1]], quantity, families[-1], words)
    return figure


def last_block(rows: pd.DataFrame) -> str:
    """Return the deepest layer other than the head."""
    layers = rows[(rows["group"] != TOTAL) & (rows["group"] != "head")]
    return str(layers.loc[layers["depth"].idxmax(), "group"])


def draw_families(ax: Axes, rows: pd.DataFrame, quantity: str, families: list[str], words: str) -> None:
    """Draw a quantity of the last block over steps, a line per family.

    Args:
        ax: Panel.
        rows: Recordings of one reading.
        quantity: ``"gsnr"`` or ``"cor"``.
        families: In the order of the legend.
        words: Description of the reading.
    """
    group = last_block(rows)
    own = rows[rows["group"] == group]
    own = own.assign(cor=own["cor"].where(own["status"] == "ok"))
    found = over_seeds(own, ["family", "step"], quantity)
    if quantity == "gsnr":
        floor = float(own["noise_floor"].min())
        gsnr_axis(ax, found[["gsnr", "gsnr_low", "gsnr_high"]].to_numpy(dtype=float), floor)
        noise_floor_line(ax, floor)
    else:
        cor_axis(ax, own, MEASURED["rho"], edge_band=True, reach=5)
    for index, family in enumerate(families):
        mine = own[own["family"] == family]
        at = int(np.median([weakest_step(run) for _, run in rows[rows["family"] == family].groupby("seed")]))
        if quantity == "gsnr":
            _mean_line(ax, found[found["family"] == family].sort_values("step"), family, at)
        else:
            _seed_lines(ax, mine, rows, family, 2.0 * (index - 1.5))
    ax.set_xlabel("training step")
    ax.set_ylabel(QUANTITIES[quantity])
    dress(ax, title=f"(a) {group}, by family", note=words)
    legend_below(ax)


def _mean_line(ax: Axes, line: pd.DataFrame, family: str, at: int) -> None:
    """Draw the mean over seeds with its band, and a diamond at step `at`."""
    x, y, low, high = (line[name].to_numpy(dtype=float) for name in ("step", "gsnr", "gsnr_low", "gsnr_high"))
    style: dict[str, Any] = {"label": family, "zorder": 4, "marker": MARKERS[family], "markersize": 3}
    line_with_band(ax, x, y, (low, high), name=family, color=COLORS[family], **style)
    here = np.abs(x - at) == np.abs(x - at).min()
    ax.plot(x[here][:1], y[here][:1], gid=f"diamond:{family}", **diamond_style(COLORS[family], main=True))


def _seed_lines(ax: Axes, own: pd.DataFrame, rows: pd.DataFrame, family: str, shift: float) -> None:
    """Draw each seed: if one has no COR at a step, the mean of the others would be too large."""
    color = COLORS[family]
    for number, (seed, run) in enumerate(own.sort_values("step").groupby("seed")):
        x, y = run["step"].to_numpy(dtype=float), run["cor"].to_numpy(dtype=float)
        style: dict[str, Any] = {"color": color, "marker": MARKERS[family], "markersize": 2.8, "linewidth": 0.9}
        dashes = "-" if number == 0 else (0, (4, 1.5))
        ax.plot(
            x, y, label=family if number == 0 else None, gid=f"{family}:{seed}", linestyle=dashes, zorder=4, **style
        )
        low, high = (np.clip(run[f"cor_{end}"].to_numpy(dtype=float), *ax.get_ylim()) for end in ("low", "high"))
        ax.vlines(x[np.isfinite(y)], low[np.isfinite(y)], high[np.isfinite(y)], color=color, linewidth=0.6, alpha=0.7)
        here = (x == weakest_step(rows[(rows["family"] == family) & (rows["seed"] == seed)])) & np.isfinite(y)
        ax.plot(x[here], y[here], gid=f"diamond:{family}", **diamond_style(color, main=True))
        lost = run.loc[run["status"] == "no_signal", "step"].to_numpy(dtype=float)
        edge_markers(ax, lost + shift, "no_signal", colors=color, label="_nolegend_")


def draw_depth(ax: Axes, rows: pd.DataFrame, quantity: str, family: str, words: str) -> None:
    """Draw a quantity of the first seed by layer over steps.

    Args:
        ax: Panel.
        rows: Recordings of one reading and family.
        quantity: ``"gsnr"`` or ``"cor"``.
        family: Name of the family.
        words: Description of the reading.
    """
    own = rows[rows["seed"] == rows["seed"].min()]
    if quantity == "cor":  # without a COR, the interval would cover the whole axis and say nothing
        own = own.assign(**{name: own[name].where(own["status"] == "ok") for name in ("cor_low", "cor_high")})
    layers = own[own["group"] != TOTAL].reset_index(drop=True)
    totals = own[own["group"] == TOTAL].reset_index(drop=True)
    bottleneck: BottleneckLike | None = find_bottleneck(layers, totals)
    plot_trajectory(layers, MEASURED, quantity=quantity, totals=totals, bottleneck=bottleneck, note=False, ax=ax)
    dress(ax, title=f"(b) {family}, by layer", note=words)


def main(arguments: list[str] | None = None) -> None:
    """Run the script with command-line arguments; None reads those of the process."""
    run_study(compute, plot, __doc__, arguments)


if __name__ == "__main__":
    main()
