"""Figure 3: GSNR over training steps, by family at the last block and by layer on the least semantic family.

Claim (the paper's Figure 3): GSNR of the last block is lowest on the least semantic family, and falls from layer to
layer there. Command: ``python -m analyses.figures.figure3`` (``--replot``, ``--smoke``). Hardware: 2 CPU cores, 10 minutes
beside finished plain runs of ``foretell_collapse``. Obtained (embedded data): before training leaves the plateau nt and
f2f are lowest (readout, step 80: .0000 and .0007 against df .011, fs .16), after it df is (step 240: .02 against .16 to
.38). On nt GSNR falls from block 1 to 6 while training leaves the plateau (readout, seed 0, step 160: .0014 to .0002;
step 200: .011 to .0025); later seed 0 has no order, seed 1 falls on. Own parameters show no order. Table:
``figures/data/recordings.csv``. Figures: ``figure3`` (GSNR) and ``figure3_cor`` (the same for COR), both readings of
"layer-wise" one above the other.
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
    collapse_zone,
    diamond_style,
    edge_markers,
    edge_strip,
    gsnr_axis,
    log_limits,
    tidy_log_axis,
)
from gsnr_toolkit.report.plots.style import OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure
from gsnr_toolkit.report.plots.trajectory import NAMES as QUANTITIES
from gsnr_toolkit.report.plots.trajectory import plot_trajectory


def compute(chosen: argparse.Namespace) -> None:
    """Record what is missing, and write the table.

    Args:
        chosen: Options of the script.
    """
    record(chosen)


def plot(out: Path) -> None:
    """Draw both figures from the stored table.

    Args:
        out: Folder of the table.
    """
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
    """The deepest layer that is not the head.

    Args:
        rows: With ``group`` and ``depth``.

    Returns:
        Its name.
    """
    layers = rows[(rows["group"] != TOTAL) & (rows["group"] != "head")]
    return str(layers.loc[layers["depth"].idxmax(), "group"])


def draw_families(ax: Axes, rows: pd.DataFrame, quantity: str, families: list[str], words: str) -> None:
    """Draw the last block's quantity over steps, a line per family.

    Args:
        ax: The panel.
        rows: Recordings of one reading.
        quantity: ``"gsnr"`` or ``"cor"``.
        families: In the order of the legend.
        words: What the reading is.
    """
    group = last_block(rows)
    own = rows[rows["group"] == group]
    own = own.assign(cor=own["cor"].where(own["status"] == "ok"))
    found = over_seeds(own, ["family", "step"], quantity)
    _axis(ax, own if quantity == "cor" else found, quantity, float(own["noise_floor"].min()))
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
    """Draw the mean over seeds with its band; the diamond is at the median of the seeds' steps of smallest COR."""
    x, y, low, high = (line[name].to_numpy(dtype=float) for name in ("step", "gsnr", "gsnr_low", "gsnr_high"))
    color, (bottom, top) = COLORS[family], ax.get_ylim()
    ax.plot(x, y, label=family, gid=family, zorder=4, color=color, marker=MARKERS[family], markersize=3)
    ax.fill_between(x, np.maximum(low, bottom), np.minimum(high, top), color=color, alpha=0.13, linewidth=0)
    here = np.abs(x - at) == np.abs(x - at).min()
    ax.plot(x[here][:1], y[here][:1], gid=f"diamond:{family}", **diamond_style(color, main=True))


def _seed_lines(ax: Axes, own: pd.DataFrame, rows: pd.DataFrame, family: str, shift: float) -> None:
    """Draw each seed by itself: where one has no COR, a mean over the others would be too large."""
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


def _axis(ax: Axes, found: pd.DataFrame, quantity: str, floor: float) -> None:
    names = [quantity, f"{quantity}_low", f"{quantity}_high"]
    if quantity == "gsnr":
        gsnr_axis(ax, found[names].to_numpy(dtype=float), floor)
        ax.axhline(
            floor, color=OKABE_ITO["orange"], linestyle=(0, (4, 2)), linewidth=0.9, zorder=1,
            label=f"noise floor 1/n = {floor:.2g}",
        )  # fmt: skip
        return
    values = found["cor"].to_numpy(dtype=float)
    known = values[np.isfinite(values)]
    rho = MEASURED["rho"]
    least = known.min() / 5 if known.size else rho / 5
    high = found["cor_high"].to_numpy(dtype=float)
    ax.set_yscale("log")
    shown = [*known, *found["cor_low"].clip(lower=least), *high[np.isfinite(high)], rho / 1.6, rho * 1.6]
    ax.set_ylim(log_limits(shown, edge_band=True))
    tidy_log_axis(ax)
    collapse_zone(ax, rho)
    edge_strip(ax)


def draw_depth(ax: Axes, rows: pd.DataFrame, quantity: str, family: str, words: str) -> None:
    """Draw a quantity by layer over steps, of the first seed.

    Args:
        ax: The panel.
        rows: Recordings of one reading and family.
        quantity: ``"gsnr"`` or ``"cor"``.
        family: Its name.
        words: What the reading is.
    """
    own = rows[rows["seed"] == rows["seed"].min()]
    if quantity == "cor":  # where there is no COR its interval reaches over the whole axis, and says nothing
        own = own.assign(**{name: own[name].where(own["status"] == "ok") for name in ("cor_low", "cor_high")})
    layers = own[own["group"] != TOTAL].reset_index(drop=True)
    totals = own[own["group"] == TOTAL].reset_index(drop=True)
    bottleneck: BottleneckLike | None = find_bottleneck(layers, totals)
    plot_trajectory(layers, MEASURED, quantity=quantity, totals=totals, bottleneck=bottleneck, note=False, ax=ax)
    dress(ax, title=f"(b) {family}, by layer", note=words)


def main(arguments: list[str] | None = None) -> None:
    """Run the script.

    Args:
        arguments: Of the command line; those of the process when None.
    """
    run_study(compute, plot, __doc__, arguments)


if __name__ == "__main__":
    main()
