"""Figure 1: methods that collapse at the usual radius, COR by layer, and samples of the families.

Claim (the paper's Figure 1): (a) at rho = 0.05 detectors collapse on the least semantic forgeries, CoRIT does not; (b)
COR falls with depth into the collapse zone COR < 0.05; (c) samples. Command: ``python -m analyses.figures.figure1``
(``--replot``, ``--smoke``). Hardware: 2 CPU cores, 25 minutes beside finished runs of ``foretell_collapse`` and
``corit_baselines``, whose table it reads. Obtained (embedded data, clip-lab): (a) with all parameters trained AUC at
0.05 is .72 on df, .93 on fs, .93 on f2f, and .66 and .97 on nt: one seed of two fails there, on no other family; (b)
with readout heads COR falls by about 8 from the first block to the last on df (.023 to .0028) and 6 on nt (.0090 to
.0014; seed 0), inside the zone; layers' own parameters show no such fall, and 256 images give no COR for many of them.
Tables: ``figures/data/figure1.csv`` (a row per method, data set, radius and seed), ``recordings.csv``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.collapse.laboratory import RATES, run_folder, train_all
from analyses.collapse.recordings import READINGS, TABLE, TOTAL, family_settings, weakest_step
from analyses.collapse.recordings import compute as record
from analyses.figures.samples import draw_samples
from analyses.support.families import COLORS, FAMILIES, MARKERS, family_of
from analyses.support.figure import MEASURED, caption_line, save_figure
from analyses.support.runner import run_study
from analyses.support.tables import over_seeds, read_table, store
from gsnr_toolkit import TrainConfig
from gsnr_toolkit.report.plots.categories import category_handles, plot_categories
from gsnr_toolkit.report.plots.labels import label_layers
from gsnr_toolkit.report.plots.marks import cor_axis, edge_markers, status_proxy, up_arrows
from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure
from gsnr_toolkit.training.run import read_result

RHO = 0.05
"""The usual radius."""

METHODS = ("head", "norms", "last-3", "full")
"""Modes of tuning, from what trains least."""

RECORDED = ("norms", "last-3", "full")
"""Modes whose plain runs ``foretell_collapse`` makes, with a record; they are shared with it."""

METHOD_NAMES = {"head": "linear head", "norms": "norms", "last-3": "last 3 blocks", "full": "all", "corit": "CoRIT"}

METHOD_LOOKS = {
    name: (OKABE_ITO[color], marker)
    for name, color, marker in zip(METHOD_NAMES, ("sky", "purple", "green", "blue", "vermillion"), "svP^o", strict=True)
}

_COLUMNS = ["method", "train", "test", "rho", "seed", "auc", "auc_low", "auc_high", "num_test", "status", "model"]


def method_configs(chosen: argparse.Namespace) -> dict[tuple[str, str], TrainConfig]:
    """Return the config of every method on every family, without radius and seed.

    Norms and the head alone, which have few parameters, get larger learning rates.

    Args:
        chosen: Options of the script.

    Returns:
        By method and family.
    """
    found = {}
    for setting in family_settings(chosen):
        for method in (METHODS[0], METHODS[-1]) if chosen.smoke else METHODS:
            config = replace(setting.config, tuning=method, lr=setting.config.lr * RATES.get(method, 1.0))
            found[method, family_of(config.data)] = config
    return found


def compute(chosen: argparse.Namespace) -> None:
    """Record the plain runs, train each method at the usual radius, and write the table."""
    record(chosen)
    runs = {
        replace(config, rho=rho, seed=seed): (method, family)
        for (method, family), config in method_configs(chosen).items()
        for rho in (0.0, RHO)
        for seed in range(chosen.seeds)
        if rho or method not in RECORDED
    }
    for setting in family_settings(chosen):
        for method in (name for name in RECORDED if (name, family_of(setting.config.data)) in method_configs(chosen)):
            family = family_of(setting.config.data)
            own = replace(setting, config=method_configs(chosen)[method, family])
            runs |= {own.run_config(0.0, seed): (method, family) for seed in range(chosen.seeds)}
    configs = {f"{method} {family}": config.to_dict() for (method, family), config in method_configs(chosen).items()}
    rows = []
    for config in train_all(list(runs), chosen.runs, workers=chosen.workers, device=chosen.device):
        method, family = runs[config]
        found = read_result(run_folder(chosen.runs, config), config)
        assert found is not None
        aucs = {"auc": found["test_auc"], "auc_low": found["test_auc_low"], "auc_high": found["test_auc_high"]}
        at = {"method": method, "train": config.data, "test": config.data, "rho": config.rho, "seed": config.seed}
        rows.append({**at, **aucs, "num_test": found["num_test"], "status": found["status"], "model": config.model})
        sys.stdout.write(
            f"{method:<7} {family:<4} rho {config.rho:g} seed {config.seed}  AUC {found['test_auc']:.3f}\n"
        )
        sys.stdout.flush()
        table = pd.DataFrame(rows, columns=_COLUMNS).sort_values(["method", "train", "rho", "seed"])
        store(chosen.out, "figure1", {"": table}, configs=configs, seeds=chosen.seeds)


def plot(out: Path) -> None:
    """Draw the figure from the tables stored in a folder."""
    methods, recorded = read_table(out, "figure1"), read_table(out, TABLE)
    corit = out / "corit_baselines.csv"
    if corit.exists():
        model = str(methods["model"].iloc[0])
        methods = pd.concat([methods, corit_rows(pd.read_csv(corit), model)], ignore_index=True)
    names, seeds = list(recorded["family"].drop_duplicates()), methods.groupby("method")["seed"].nunique()
    caption = caption_line(
        "; ".join(recorded["caption"].drop_duplicates()),
        f"(a) n = {_span(methods['num_test'])} test images, mean of {_span(seeds)} seeds",
        f"(b) n = {int(recorded['num_samples'].max())} images",
        f"each of {recorded['seed'].nunique()} seeds (dashed: the second)",
        "bars: 95 % intervals",
    )
    save_figure(draw(methods, recorded, names), out, "figure1", caption)


def _span(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def corit_rows(baselines: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return CoRIT on the same model, without SAM and at the usual radius, tested on its training family.

    Args:
        baselines: With ``encoder, method, trained_on, test, rho, seed, auc, auc_low, auc_high, num_test, status``.
        model: Model of the figure.

    Returns:
        Rows with the columns of the figure's table.
    """
    own = baselines["method"].str.startswith("CoRIT, shared regions") & (baselines["encoder"] == model)
    rows = baselines[own & (baselines["trained_on"] == baselines["test"]) & baselines["rho"].isin([0.0, RHO])]
    renamed = rows.rename(columns={"trained_on": "train", "encoder": "model"})
    return renamed.reindex(columns=_COLUMNS).assign(method="corit")


@in_paper_style
def draw(methods: pd.DataFrame, recorded: pd.DataFrame, families: list[str]) -> Figure:
    """Draw all panels.

    Args:
        methods: A row per method, data set, radius and seed.
        recorded: The recordings.
        families: Families of the samples in (c).

    Returns:
        The figure, two columns wide.
    """
    figure = new_figure(TEXT_WIDTH, 4.9)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.75, 1))
    top, bottom = halves
    first, *layers = top.subplots(1, 3, width_ratios=(1.05, 1, 1))
    draw_methods(first, methods)
    for ax, reading in zip(layers, READINGS, strict=True):
        draw_layers(ax, recorded[recorded["reading"] == reading], reading)
    layers[1].set_ylabel("")
    shown = {METHOD_NAMES[name]: look for name, look in METHOD_LOOKS.items() if name in set(methods["method"])}
    handles = [*category_handles(shown), *layers[0].get_legend_handles_labels()[0]]
    handles.append(status_proxy("no_signal"))
    top.legend(handles=handles, loc="outside lower left", ncols=5, fontsize=6.5, columnspacing=1.4, handlelength=1.2)
    draw_samples(bottom, [name for name in FAMILIES if name in families])
    return figure


def draw_methods(ax: Axes, methods: pd.DataFrame) -> None:
    """Draw AUC by family and method, hollow without SAM; ``methods`` has a row per run."""
    methods = methods.assign(family=methods["train"].map(family_of))
    rows = over_seeds(methods, ["method", "family", "rho"], "auc")
    rows = rows.assign(hollow=rows["rho"] == 0, place=rows["family"].map(FAMILIES.index))
    rows = rows.sort_values(["place", "rho"])  # filled marks on top
    # The marks without SAM get no interval: the two would overlap.
    rows.loc[rows["hollow"], ["auc_low", "auc_high"]] = np.nan
    ends = ("auc_low", "auc_high")
    plot_categories(
        ax, rows, category="family", value="auc", interval=ends, hue="method", looks=METHOD_LOOKS, hollow="hollow"
    )  # fmt: skip
    ax.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (1, 1.2)), zorder=1)
    ax.set_ylim(0.42, 1.02)
    ax.set_ylabel("test AUC")
    dress(ax, title="(a) AUC by data set", note=f"filled: ρ = {RHO:g}; hollow: ρ = 0")


def draw_layers(ax: Axes, recorded: pd.DataFrame, reading: str) -> None:
    """Draw COR by layer at the step of the smallest COR of the whole model: a line for each family and seed.

    A layer without a COR (no signal) is a mark at the lower edge; one above the radii tried is an arrow.
    """
    parts = [rows[rows["step"] == weakest_step(rows)] for _, rows in recorded.groupby(["family", "seed"], sort=False)]
    rows = pd.concat(parts)
    rows = rows[rows["group"] != TOTAL].sort_values("depth", kind="stable")
    groups = list(rows["group"].drop_duplicates())
    cor_axis(ax, rows, RHO, ceiling=max(MEASURED["radii"]), edge_band=True, reach=3)
    for index, family in enumerate(name for name in FAMILIES if name in set(rows["family"])):
        for number, (_, run) in enumerate(rows[rows["family"] == family].groupby("seed")):
            shift = 0.13 * (index - 1.5) + 0.05 * number
            _draw_run(ax, run, run["group"].map(groups.index) + shift, family, first=number == 0)
    label_layers(ax, groups)
    ax.set_ylabel("critical radius (COR)")
    dress(ax, title=f"(b) COR by layer: {reading}", note=READINGS[reading])


def _draw_run(ax: Axes, run: pd.DataFrame, places: pd.Series, family: str, *, first: bool) -> None:
    """Draw one run's layers; seeds after the first are dashed."""
    color, ceiling, x = COLORS[family], max(MEASURED["radii"]), places.to_numpy(dtype=float)
    status = run["status"].to_numpy()
    cor = np.where(status == "ok", run["cor"].to_numpy(dtype=float), np.nan)
    known = np.isfinite(cor)
    low, high = (run[f"cor_{end}"].to_numpy(dtype=float)[known] for end in ("low", "high"))
    ax.plot(
        x, cor, linestyle="-" if first else (0, (4, 1.5)), label=family if first else None, marker=MARKERS[family],
        markersize=2.8, linewidth=0.9, color=color, gid=family, zorder=4,
    )  # fmt: skip
    ends = np.maximum(low, ax.get_ylim()[0]), np.minimum(high, ceiling)
    ax.vlines(x[known], *ends, color=color, linewidth=0.5, alpha=0.6)
    for name in ("no_signal", "undefined"):
        if (status == name).any():
            edge_markers(ax, x[status == name], name, colors=color, label="_nolegend_")
    if (status == "above_max_radius").any():
        up_arrows(ax, x[status == "above_max_radius"], ceiling, colors=color).set(sizes=[55], label="_nolegend_")


def main(arguments: list[str] | None = None) -> None:
    """Run the script with command-line arguments; None reads those of the process."""
    run_study(compute, plot, __doc__, arguments)


if __name__ == "__main__":
    main()
