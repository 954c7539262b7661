"""Figures of the CoRIT studies; all are drawn from stored tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.support.figure import grey_title
from gsnr_toolkit.report.plots.categories import plot_categories
from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure
from gsnr_toolkit.sweeps.over_seeds import average_over_seeds

_LOOKS = (("blue", "o"), ("orange", "s"), ("vermillion", "D"), ("green", "^"), ("purple", "v"), ("sky", "P"))


def over_seeds(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Average AUC over seeds, with the toolkit's 95 % interval over images and seeds.

    Args:
        table: Rows with ``auc, auc_low, auc_high, seed, train_loss``, and optionally ``rho`` and ``status``.
        by: Columns that define a setting, besides the radius.

    Returns:
        A row for each setting and radius: ``auc, auc_low, auc_high, num_seeds, train_loss, state``.
    """
    renamed = table.rename(columns={name: f"test_{name}" for name in ("auc", "auc_low", "auc_high")})
    filled = {name: value for name, value in {"rho": 0.0, "status": "ok"}.items() if name not in renamed}
    return average_over_seeds(renamed.assign(**filled), by)


@in_paper_style
def draw_ladder(table: pd.DataFrame, rungs: list[str]) -> Figure:
    """Draw the test AUC of each rung by layer, a panel for each family.

    Args:
        table: One row per family, layer, rung and seed.
        rungs: In the order of the legend.

    Returns:
        The figure.
    """
    families = list(dict.fromkeys(table["family"]))
    figure = new_figure(TEXT_WIDTH, 2.6)
    axes = np.atleast_1d(figure.subplots(1, len(families), sharey=True))
    means = over_seeds(table, ["family", "layer", "rung"])
    for ax, family in zip(axes, families, strict=True):
        for rung, (color, marker) in zip(rungs, _LOOKS, strict=False):
            rows = means[(means["family"] == family) & (means["rung"] == rung)].sort_values("layer")
            _line(ax, rows["layer"], rows, OKABE_ITO[color], marker, rung)
        ax.axhline(0.5, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)))
        ax.set_xticks(sorted(table["layer"].unique()))
        ax.set_xlabel("layer")
        dress(ax, title=_NAMES.get(family, f"demo-{family}"), note="")
    axes[0].set_ylabel("test AUC")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(rungs), fontsize=6.5)
    _note(figure, table)
    return figure


def _line(ax: Axes, x: pd.Series, rows: pd.DataFrame, color: str, marker: str, label: str) -> None:
    center = rows["auc"].to_numpy(dtype=float)
    reach = np.clip(np.stack([center - rows["auc_low"], rows["auc_high"] - center]), 0, None)
    ax.errorbar(
        x, center, yerr=reach, color=color, marker=marker, markersize=3, elinewidth=0.7, linewidth=1, label=label,
    )  # fmt: skip


def _note(figure: Figure, table: pd.DataFrame) -> None:
    test, seeds = int(table["num_test"].max()), table["seed"].nunique()
    grey_title(
        figure,
        f"embedded data; n = {test} test images, {seeds} seed{'s' if seeds != 1 else ''} with training images of their "
        "own; bars: 95 % over images and seeds",
    )


_METHOD_LOOKS = {
    "linear probe": ("sky", "v"),
    "class tokens": ("black", "P"),
    "CoRIT, regions of each image": ("orange", "s"),
    "CoRIT, shared regions": ("vermillion", "D"),
    "LN-tuning": ("green", "^"),
    "last 3 blocks": ("purple", "<"),
    "full fine-tuning": ("blue", "o"),
    "plain SBI classifier": ("yellow", "X"),
}
_COLORED = {method: (OKABE_ITO[color], marker) for method, (color, marker) in _METHOD_LOOKS.items()}
_SETTING = ["encoder", "method", "trained_on", "test"]
_NAMES = {"nt": "demo-nt", "df": "demo-df", "sbi": "self-blended"}


@in_paper_style
def draw_radii(table: pd.DataFrame, methods: list[str]) -> Figure:
    """Draw AUC on the training family against the SAM radius, a panel for each encoder and kind of training images.

    Args:
        table: One row per encoder, method, training images, radius, seed and test set.
        methods: In the order of the legend.

    Returns:
        The figure.
    """
    home = table["trained_on"].replace("sbi", "df")
    means = over_seeds(table[table["test"] == home], _SETTING)
    means = means[means["trained_on"] != "sbi"]  # the legend names only what is drawn
    panels = [key for key, _ in means.groupby(["encoder", "trained_on"], sort=False)]
    figure = new_figure(TEXT_WIDTH, 2.8)
    axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for ax, (encoder, trained_on) in zip(axes, panels, strict=True):
        mine = means[(means["encoder"] == encoder) & (means["trained_on"] == trained_on)]
        for method in methods:
            rows = mine[mine["method"] == method].sort_values("rho")
            if len(rows):
                _line(ax, rows["rho"], rows, *_COLORED[method], method)
        ax.axhline(0.5, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)))
        ax.set_xscale("symlog", linthresh=0.01, linscale=0.5)
        ax.set_xlim(-0.004, 1.4 * mine["rho"].max())
        ax.minorticks_off()
        ax.set_xticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
        ax.set_xlabel(r"SAM radius $\rho$")
        dress(ax, title=f"{encoder}, {_NAMES[trained_on]}", note="")
    axes[0].set_ylabel("test AUC, family trained on")
    _method_legend(figure, methods, means["method"])
    _note(figure, table)
    return figure


@in_paper_style
def draw_domains(table: pd.DataFrame, methods: list[str], rho: float = 0.05) -> Figure:
    """Draw AUC on every test set at one radius, a panel for each encoder and kind of training images.

    Args:
        table: One row per encoder, method, training images, radius, seed and test set.
        methods: In the order of the legend.
        rho: The radius; if no run has it, the plain runs are drawn.

    Returns:
        The figure.
    """
    rho = rho if (table["rho"] == rho).any() else 0.0
    means = over_seeds(table[table["rho"] == rho], _SETTING)
    kinds = [key for key, _ in means.groupby(["encoder", "trained_on"], sort=False) if key != ("clip-lab", "sbi")]
    tests = list(dict.fromkeys(table["test"]))
    figure = new_figure(TEXT_WIDTH, 1.35 * len(kinds) + 0.7)
    axes = np.atleast_1d(figure.subplots(len(kinds), 1, sharex=True, sharey=True))
    for ax, (encoder, trained_on) in zip(axes, kinds, strict=True):
        wanted = (means["encoder"] == encoder) & (means["trained_on"] == trained_on)
        wanted |= (means["encoder"] == encoder) & (means["method"] == "plain SBI classifier")
        shown = [method for method in methods if method in set(means[wanted]["method"])]
        rows = means[wanted].assign(name="demo-" + means["test"], place=means["test"].map(tests.index))
        rows = rows.sort_values("place", kind="stable")
        plot_categories(
            ax, rows, category="name", value="auc", interval=("auc_low", "auc_high"),
            hue="method", looks={method: _COLORED[method] for method in shown},
        )  # fmt: skip
        ax.axhline(0.5, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)))
        ax.set_ylabel("test AUC")
        dress(ax, title=f"{encoder}, trained on {_NAMES[trained_on]}, rho = {rho:g}", note="")
    _method_legend(figure, methods, means["method"])
    _note(figure, table)
    return figure


@in_paper_style
def draw_losses(table: pd.DataFrame, methods: list[str], rho: float = 0.05) -> Figure:
    """Draw the training loss of runs on demo-nt, a panel for each encoder; solid: at the radius, dashed: without SAM.

    Args:
        table: One row per encoder, method, training images, radius, seed and test set, with ``loss_curve``.
        methods: In the order of the legend.
        rho: The radius.

    Returns:
        The figure.
    """
    runs = table[table["trained_on"].isin(["nt"]) | (table["method"] == "plain SBI classifier")]
    runs = runs.drop_duplicates(["encoder", "method", "rho", "seed"])
    encoders = list(dict.fromkeys(runs["encoder"]))
    figure = new_figure(TEXT_WIDTH, 2.6)
    axes = np.atleast_1d(figure.subplots(1, len(encoders), sharey=True))
    for ax, encoder in zip(axes, encoders, strict=True):
        curves = _loss_curves(runs[(runs["encoder"] == encoder) & runs["rho"].isin([0.0, rho])])
        sns.lineplot(
            curves, x="share", y="loss", hue="method",
            palette={name: color for name, (color, _) in _COLORED.items()}, style="rho",
            dashes={rho: "", 0.0: (2, 1.5)}, errorbar=None, legend=False, ax=ax,
        )  # fmt: skip
        ax.axhline(np.log(2), color=MUTED, linewidth=0.7, linestyle="dotted")
        ax.set(ylim=(0, 1), xlabel="share of the run, %", ylabel="")
        dress(ax, title=f"{encoder}: solid rho = {rho:g}, dashed rho = 0", note="grey: ln 2")
    axes[0].set_ylabel("training loss, nats")
    _method_legend(figure, methods, runs["method"], markers=False)
    seeds = table["seed"].nunique()
    words = f"embedded data, training on demo-nt ('plain SBI classifier': self-blended pairs); mean of {seeds} seeds"
    grey_title(figure, words)
    return figure


def _loss_curves(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per point of the stored curves; curves to be averaged are cut to the length of the shortest."""
    frames = []
    for (method, rho), own in runs.groupby(["method", "rho"], sort=False):
        curves = [np.array(text.split(), dtype=float) for text in own["loss_curve"]]
        length = min(map(len, curves))
        share = np.linspace(0, 100, length)
        frames += [
            pd.DataFrame({"method": method, "rho": rho, "share": share, "loss": curve[:length]}) for curve in curves
        ]
    return pd.concat(frames, ignore_index=True)


def _method_legend(figure: Figure, methods: list[str], shown: pd.Series, *, markers: bool = True) -> None:
    handles = [
        Line2D([], [], color=color, marker=marker if markers else None, markersize=3, linewidth=1, label=name)
        for name, (color, marker) in ((name, _COLORED[name]) for name in methods if name in set(shown))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
