"""Figures of the CoRIT studies; all are drawn from stored tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure
from gsnr_toolkit.sweeps.over_seeds import average_over_seeds

_LOOKS = (("blue", "o"), ("orange", "s"), ("vermillion", "D"), ("green", "^"), ("purple", "v"), ("sky", "P"))


def over_seeds(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean AUC over seeds with the toolkit's 95 % interval: that of the images, and that of the seeds.

    Args:
        table: Rows with ``auc, auc_low, auc_high, seed, train_loss``, and perhaps ``rho`` and ``status``.
        by: Columns that make a setting; the radius is always one.

    Returns:
        A row for each setting and radius: ``auc, auc_low, auc_high, num_seeds, train_loss, state``.
    """
    renamed = table.rename(columns={name: f"test_{name}" for name in ("auc", "auc_low", "auc_high")})
    filled = {name: value for name, value in {"rho": 0.0, "status": "ok"}.items() if name not in renamed}
    return average_over_seeds(renamed.assign(**filled), by)


@in_paper_style
def draw_ladder(table: pd.DataFrame, rungs: list[str]) -> Figure:
    """Test AUC of each rung by layer, a panel for each family.

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


def _line(ax: Axes, x: pd.Series, rows: pd.DataFrame, color: str, marker: str, label: str, **style: object) -> None:
    center = rows["auc"].to_numpy(dtype=float)
    reach = np.clip(np.stack([center - rows["auc_low"], rows["auc_high"] - center]), 0, None)
    ax.errorbar(
        x, center, yerr=reach, color=color, marker=marker, markersize=3, elinewidth=0.7, linewidth=1, label=label,
        **style,  # type: ignore[arg-type]
    )  # fmt: skip


def _note(figure: Figure, table: pd.DataFrame) -> None:
    test, seeds = int(table["num_test"].max()), table["seed"].nunique()
    figure.suptitle(
        f"embedded data; n = {test} test images, {seeds} seed{'s' if seeds != 1 else ''} with training images of their "
        "own; bars: 95 % over images and seeds",
        fontsize=6.5, color=MUTED, x=0.01, ha="left",
    )  # fmt: skip


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
_SETTING = ["encoder", "method", "trained_on", "test"]
_NAMES = {"nt": "demo-nt", "df": "demo-df", "sbi": "self-blended"}


@in_paper_style
def draw_radii(table: pd.DataFrame, methods: list[str]) -> Figure:
    """AUC on the family trained on against SAM's radius, a panel for each encoder and kind of training images.

    Args:
        table: One row per encoder, method, training images, radius, seed and test set.
        methods: In the order of the legend.

    Returns:
        The figure.
    """
    home = table["trained_on"].replace("sbi", "df")
    means = over_seeds(table[table["test"] == home], _SETTING)
    panels = [key for key, _ in means[means["trained_on"] != "sbi"].groupby(["encoder", "trained_on"], sort=False)]
    figure = new_figure(TEXT_WIDTH, 2.8)
    axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for ax, (encoder, trained_on) in zip(axes, panels, strict=True):
        mine = means[(means["encoder"] == encoder) & (means["trained_on"] == trained_on)]
        for method in methods:
            rows = mine[mine["method"] == method].sort_values("rho")
            if len(rows):
                color, marker = _METHOD_LOOKS[method]
                _line(ax, rows["rho"], rows, OKABE_ITO[color], marker, method)
        ax.axhline(0.5, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)))
        ax.set_xscale("symlog", linthresh=0.01, linscale=0.5)
        ax.set_xlim(-0.004, 1.4 * mine["rho"].max())
        ax.minorticks_off()
        ax.set_xticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
        ax.set_xlabel(r"SAM radius $\rho$")
        dress(ax, title=f"{encoder}, {_NAMES[trained_on]}", note="")
    axes[0].set_ylabel("test AUC, family trained on")
    _method_legend(figure, axes)
    _note(figure, table)
    return figure


@in_paper_style
def draw_domains(table: pd.DataFrame, methods: list[str], rho: float = 0.05) -> Figure:
    """AUC on every test set at one radius, a panel for each encoder and kind of training images.

    Args:
        table: One row per encoder, method, training images, radius, seed and test set.
        methods: In the order of the legend.
        rho: The radius; the plain runs where no run has it.

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
        for number, method in enumerate(shown):
            rows = means[wanted & (means["method"] == method)].set_index("test").loc[tests].reset_index()
            places = np.arange(len(tests)) + (number - (len(shown) - 1) / 2) * 0.8 / max(1, len(shown))
            color, marker = _METHOD_LOOKS[method]
            _line(ax, pd.Series(places), rows, OKABE_ITO[color], marker, method, linestyle="none")
        ax.axhline(0.5, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)))
        ax.set_ylabel("test AUC")
        dress(ax, title=f"{encoder}, trained on {_NAMES[trained_on]}, rho = {rho:g}", note="")
    axes[-1].set_xticks(np.arange(len(tests)), [f"demo-{test}" for test in tests])
    _method_legend(figure, axes)
    _note(figure, table)
    return figure


@in_paper_style
def draw_losses(table: pd.DataFrame, methods: list[str], rho: float = 0.05) -> Figure:
    """Training loss along the runs on demo-nt, a panel for each encoder; solid at the radius, dashed without SAM.

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
        for method in methods:
            for radius, dashes in ((rho, "solid"), (0.0, (0, (2, 1.5)))):
                mine = runs[(runs["encoder"] == encoder) & (runs["method"] == method) & (runs["rho"] == radius)]
                curves = [np.array(text.split(), dtype=float) for text in mine["loss_curve"]]
                if curves:
                    shortest = min(map(len, curves))
                    mean = np.mean([curve[:shortest] for curve in curves], 0)
                    label = method if radius == rho else None
                    color = OKABE_ITO[_METHOD_LOOKS[method][0]]
                    ax.plot(np.linspace(0, 100, len(mean)), mean, color=color, linestyle=dashes, label=label)
        ax.axhline(np.log(2), color=MUTED, linewidth=0.7, linestyle="dotted")
        ax.set_ylim(0, 1.0)
        ax.set_xlabel("share of the run, %")
        dress(ax, title=f"{encoder}: solid rho = {rho:g}, dashed rho = 0", note="grey: ln 2")
    axes[0].set_ylabel("training loss, nats")
    _method_legend(figure, axes)
    seeds = table["seed"].nunique()
    words = f"embedded data, training on demo-nt ('plain SBI classifier': self-blended pairs); mean of {seeds} seeds"
    figure.suptitle(words, fontsize=6.5, color=MUTED, x=0.01, ha="left")
    return figure


def _method_legend(figure: Figure, axes: np.ndarray) -> None:
    found: dict[str, Any] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        found |= {label: handle for handle, label in zip(handles, labels, strict=True) if label not in found}
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=4, fontsize=6.5)
