"""Figures of the study: predicted against observed collapse radius, and the error of each candidate."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from analyses.collapse.predictors import RADII
from gsnr_toolkit.report.plots.categories import plot_categories
from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure

FAMILY_COLORS = {"df": "blue", "fs": "green", "f2f": "orange", "nt": "vermillion"}
TUNING_MARKERS = {"full": "o", "norms": "s", "last": "^"}
NAMES = {
    "cor": "COR (Definition 1)",
    "cor_layer": "COR, weakest layer",
    "escape_radius": "escape radius (ours)",
    "escape_lower": "escape radius, bound (ours)",
    "alignment_radius": "alignment radius",
    "half_cosine_radius": "half-cosine radius (ours)",
    "slope_radius": r"$|\mu| / L$ at the smallest radius",
    "lipschitz_radius": r"$|\mu|$ over the largest eigenvalue",
    "sam_edge": "SAM's edge of stability",
    "grad_norm": r"gradient norm $|\mu|$",
    "gsnr": "GSNR",
    "signal_fraction": "signal fraction r / (1 + r)",
    "misspecification": "misspecification m",
}


EARLY_FROM = 80
"""Before this step half of the settings have no signal in both seeds."""

EARLY_COLORS = {"cor": "blue", "gsnr": "green", "escape_lower": "orange", "grad_norm": "vermillion"}

TARGET = "middle_radius"
"""The observed radius in the figures: the middle of the bracket, since radii of the grid leave many settings tied."""

FIRST = "empirical_radius"
"""The other observed radius: the first of the grid that fails."""


@in_paper_style
def draw_foretold(settings: pd.DataFrame, scores: pd.DataFrame, candidates: list[str]) -> Figure:
    """Draw the empirical collapse radius against each candidate, on common logarithmic axes.

    Args:
        settings: One row per setting.
        scores: One row per candidate, for the titles.
        candidates: Candidates, one panel each.

    Returns:
        The figure.
    """
    rows = -(-len(candidates) // 3)
    figure = new_figure(TEXT_WIDTH, 2.3 * rows + 0.4)
    axes = figure.subplots(rows, 3, squeeze=False, sharey=True).ravel()
    for ax, name in zip(axes, candidates, strict=False):
        _panel(ax, settings, name)
        row = scores[_shown(scores) & (scores["candidate"] == name)].iloc[0]
        interval = f"[{row['spearman_low']:.2f}, {row['spearman_high']:.2f}]"
        dress(ax, title=NAMES[name], note=f"rank correlation {row['spearman']:.2f} {interval}")
        factor = f"n = {int(row['num_settings'])}; off by {row['calibrated_factor']:.1f}x\nafter one constant"
        ax.text(0.03, 0.96, factor, transform=ax.transAxes, va="top", fontsize=6.5, color=MUTED)
    for ax in axes[len(candidates) :]:
        ax.set_axis_off()
    found = settings[TARGET][np.isfinite(settings[TARGET])]
    for ax in axes[::3]:
        ax.set_ylabel("radius where training fails")
        ax.set_ylim(0.4 * found.min(), 2.5 * found.max())
    figure.legend(handles=_legend(settings), loc="outside upper center", ncols=8, fontsize=6.5)
    return figure


def _shown(scores: pd.DataFrame) -> pd.Series:
    return (scores["scope"] == "all") & (scores["target"] == TARGET)


def _panel(ax: Axes, settings: pd.DataFrame, name: str) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    found = settings[TARGET]
    good = settings[np.isfinite(settings[name]) & (settings[name] > 0) & np.isfinite(found)]
    for row in good.to_dict("records"):
        low, high = min(row["empirical_low"], row[TARGET]), max(row["empirical_high"], row[TARGET])
        # A bracket without an upper end gets no bar upwards.
        reach = [[row[TARGET] - low], [high - row[TARGET] if np.isfinite(high) else 0.0]]
        marker = TUNING_MARKERS[str(row["tuning"]).partition("-")[0]]
        color = OKABE_ITO[FAMILY_COLORS[row["family"]]]
        ax.errorbar(
            row[name], row[TARGET], yerr=reach, fmt=marker, markersize=3.6, color=color,
            markeredgecolor="white", markeredgewidth=0.4, elinewidth=0.6, zorder=3, gid=str(row["setting"]),
        )  # fmt: skip
    is_radius = name in RADII
    if is_radius:
        limits = np.array([0.5 * good[name].min(), 2 * good[name].max()]) if len(good) else np.array([0.01, 1.0])
        ax.plot(limits, limits, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1, gid="identity")
        ax.set_xlim(*limits)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("foretold by the plain run" if is_radius else "value in the plain run")


def _legend(settings: pd.DataFrame) -> list[Line2D]:
    def dot(marker: str, color: str, label: str) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, markersize=4, color=color, label=label)

    families = [dot("o", OKABE_ITO[color], name) for name, color in FAMILY_COLORS.items()]
    used = {str(tuning).partition("-")[0] for tuning in settings["tuning"]}
    tunings = [dot(marker, MUTED, f"{name} trained") for name, marker in TUNING_MARKERS.items() if name in used]
    return [*families, *tunings, Line2D([], [], color=MUTED, linestyle=(0, (4, 2)), linewidth=0.7, label="equal")]


@in_paper_style
def draw_scores(scores: pd.DataFrame) -> Figure:
    """Draw the rank correlation of every candidate with the empirical radius; intervals: bootstrap over settings."""
    rows = (
        scores[_shown(scores) & scores["candidate"].isin(NAMES)]
        .dropna(subset=["spearman"])
        .sort_values("spearman", ascending=False)
    )
    figure = new_figure(TEXT_WIDTH * 0.75, 0.2 * len(rows) + 1.0)
    ax = figure.add_subplot()
    names = [f"{NAMES[row.candidate]} (n = {row.num_settings})" for row in rows.itertuples()]
    plot_categories(
        ax, rows.assign(name=names, kind=""), category="name", value="spearman", hue="kind",
        interval=("spearman_low", "spearman_high"), looks={"": (OKABE_ITO["blue"], "o")}, horizontal=True,
    )  # fmt: skip
    ax.axvline(0, color=MUTED, linewidth=0.7)
    ax.axvline(0.9, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)))
    ax.set_xlim(-1.05, 1.05)
    ax.set_xlabel("rank correlation with the radius\nwhere training fails (dashed: target, 0.9)")
    dress(ax, title="Which quantity of a plain run foretells the collapse?", note="")
    return figure


@in_paper_style
def draw_early(scores: pd.DataFrame) -> Figure:
    """Draw the rank correlation of candidates with the empirical radius against the part of the plain run in use."""
    rows = scores[(scores["target"] == TARGET) & scores["candidate"].isin(EARLY_COLORS) & scores["spearman"].notna()]
    rows = rows[rows["last_step"] >= EARLY_FROM]
    figure = new_figure(TEXT_WIDTH * 0.75, 2.6)
    ax = figure.add_subplot()
    for place, (name, color) in enumerate(EARLY_COLORS.items()):
        own = rows[rows["candidate"] == name].sort_values("last_step")
        x = own["last_step"] + 3.0 * (place - 1.5)  # intervals side by side
        reach = np.abs(np.stack([own["spearman"] - own["spearman_low"], own["spearman_high"] - own["spearman"]]))
        ax.errorbar(
            x, own["spearman"], yerr=reach, fmt="o-", markersize=3.6, linewidth=1, elinewidth=0.6,
            color=OKABE_ITO[color], label=NAMES[name], gid=name,
        )  # fmt: skip
    ax.axhline(0, color=MUTED, linewidth=0.7)
    ax.axhline(0.9, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)))
    ax.set_ylim(-1.05, 1.05)
    ax.set_xlabel("last step of the plain run that is looked at (of 300)")
    ax.set_ylabel("rank correlation")
    ax.legend(loc="lower right", fontsize=6.5, ncols=2)
    counts = rows["num_settings"]
    note = f"n = {counts.min()} to {counts.max()} settings; dashed: target, 0.9"
    dress(ax, title="How early is the collapse foretold?", note=note)
    return figure
