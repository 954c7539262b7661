"""Figures of the study of the failing radius, from its stored tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.support.figure import caption_line, save_figure
from analyses.support.tables import read_table
from gsnr_toolkit.report.plots.marks import tidy_log_axis
from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure

_KINDS = {
    "digits": ("blue", "o"), "parity": ("sky", "s"), "tables": ("green", "D"), "regression": ("orange", "^"),
    "drawn": ("purple", "P"), "faces": ("vermillion", "X"),
}  # fmt: skip
_PANELS = {
    "margin_radius": "margin at half of the gain",
    "phi_q50": "the same from SAM's true objective",
    "cor": "COR, smallest along the run",
}
_TARGET = "failing_radius"


def plot_study(out: Path) -> None:
    """Draw three predictors against the failing radius."""
    table, scores = read_table(out, "radius_study"), read_table(out, "radius_study_scores")
    caption = caption_line(
        ", ".join(table["kind"].unique()), f"{len(table)} settings", f"{int(table['num_seeds'].sum())} plain runs",
        "filled: held out",
    )  # fmt: skip
    save_figure(draw_study(table, scores), out, "radius_study", caption)


@in_paper_style
def draw_study(table: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """Draw each predictor against the failing radius, on logarithmic axes with the line of equality.

    Args:
        table: One row per setting.
        scores: One row per candidate, set of settings and target.

    Returns:
        The figure.
    """
    figure = new_figure(TEXT_WIDTH, 2.9)
    axes = figure.subplots(1, 3, sharey=True)
    rows = scores[(scores["settings"] == "all") & (scores["target"] == _TARGET)].set_index("candidate")
    for ax, (name, title) in zip(axes, _PANELS.items(), strict=True):
        _scatter(ax, table, name)
        found = rows.loc[name]
        note = (
            f"rank {found['spearman']:.2f} [{found['spearman_low']:.2f}, {found['spearman_high']:.2f}], "
            f"off by {found['raw_factor']:.1f}x"
        )
        dress(ax, title=title, note=note)
        ax.set_xlabel("predicted radius")
    axes[0].set_ylabel("radius where training fails")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, fontsize=6.5)
    return figure


def _scatter(ax: Axes, table: pd.DataFrame, name: str) -> None:
    shown = table[(table[name] > 0) & (table[_TARGET] > 0)]
    if shown.empty:
        return
    for kind, (colour, marker) in _KINDS.items():
        rows = shown[shown["kind"] == kind]
        if rows.empty:
            continue
        ax.plot([], [], marker, color=OKABE_ITO[colour], markerfacecolor="none", label=kind)
        for held, part in rows.groupby("held_out"):
            face = OKABE_ITO[colour] if held else "none"
            ax.plot(part[name], part[_TARGET], marker, color=OKABE_ITO[colour], markerfacecolor=face, linestyle="none")
    values = [*shown[name], *shown[_TARGET]]
    ends = 0.7 * min(values), 1.4 * max(values)
    ax.plot(ends, ends, "--", color=MUTED, linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(0.6 * shown[_TARGET].min(), 1.6 * shown[_TARGET].max())
    tidy_log_axis(ax, "x")
    tidy_log_axis(ax, "y")


def plot_controllers(out: Path) -> None:
    """Draw what each rule trains, and how far it ends from the best fixed radius."""
    summary, runs = read_table(out, "radius_controllers_summary"), read_table(out, "radius_controllers")
    caption = caption_line(
        ", ".join(runs["kind"].unique()), f"{runs['setting'].nunique()} settings",
        f"{runs.groupby(['setting', 'seed']).ngroups} problems", "numbers behind a name: radius over the failing one",
        "intervals: Clopper-Pearson, and bootstrap over settings",
    )  # fmt: skip
    save_figure(draw_controllers(summary), out, "radius_controllers", caption)


@in_paper_style
def draw_controllers(summary: pd.DataFrame) -> Figure:
    """Return a figure of the share of runs that train, the score against the best fixed radius, and the passes."""
    table = summary[summary["settings"] == "all"].sort_values("gap").reset_index(drop=True)
    figure = new_figure(TEXT_WIDTH, 0.19 * len(table) + 1.0)
    panels = figure.subplots(1, 3, sharey=True)
    colours = [
        OKABE_ITO["vermillion"] if name.startswith("auto") else OKABE_ITO["blue"] for name in table["controller"]
    ]
    for ax, (name, title, factor) in zip(
        panels,
        (("trained", "share of runs that train", 1), ("gap", "score minus best fixed, points", 100),
         ("passes", "passes a step", 1)),
        strict=True,
    ):  # fmt: skip
        _dots(ax, table, name, factor, colours)
        ax.set_xlabel(title)
    panels[0].set_yticks(range(len(table)), table["controller"])
    panels[1].axvline(0, color=MUTED, linewidth=0.8, linestyle="--")
    return figure


def _dots(ax: Axes, table: pd.DataFrame, name: str, factor: float, colours: list[Any]) -> None:
    for row, colour in enumerate(colours):
        value = factor * float(table[name][row])
        if f"{name}_low" in table:
            ends = factor * table[f"{name}_low"][row], factor * table[f"{name}_high"][row]
            ax.plot(ends, (row, row), color=colour, linewidth=1.0)
        ax.plot(value, row, "o", color=colour)
    sns.despine(ax=ax)
    ax.grid(axis="y", linewidth=0.3)


def plot_traces(out: Path) -> None:
    """Draw a run that falls back, and one with ``rho="auto"``."""
    table = read_table(out, "radius_traces")
    caption = caption_line("scikit-learn's digits", "A small vision transformer", "means of 10 steps", "one seed")
    save_figure(draw_traces(table), out, "radius_traces", caption)


@in_paper_style
def draw_traces(table: pd.DataFrame) -> Figure:
    """Return a figure of loss, gradient norm and radius against the step, for each run."""
    figure = new_figure(TEXT_WIDTH, 2.6)
    panels = figure.subplots(1, 3)
    looks = {"plain": ("plain", "black"), "fixed": ("fixed radius 1", "vermillion"), "auto": ('rho = "auto"', "blue")}
    for run, (label, colour) in looks.items():
        rows = table[table["run"] == run].rolling(10, on="step", min_periods=1)[["loss", "grad_norm", "rho"]].mean()
        steps = table[table["run"] == run]["step"]
        for ax, name in zip(panels, ("loss", "grad_norm", "rho"), strict=True):
            ax.plot(steps, rows[name], color=OKABE_ITO[colour], label=label)
    panels[0].axhline(float(table["plateau_loss"].iloc[0]), color=MUTED, linestyle="--", linewidth=0.8)
    panels[0].annotate(
        "best constant prediction", (1, float(table["plateau_loss"].iloc[0])), xycoords=("axes fraction", "data"),
        ha="right", va="bottom", fontsize=6.5, color=MUTED,
    )  # fmt: skip
    panels[1].set_yscale("log")
    panels[2].set_yscale("symlog", linthresh=0.01)
    for ax, title in zip(panels, ("loss", "norm of the batch gradient", r"radius $\rho$"), strict=True):
        ax.set(xlabel="step", ylabel=title)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=6.5)
    return figure
