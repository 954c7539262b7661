"""Figure 5: loss along training on the training data set (dashed) and on others (solid), by method.

Claim (the paper's Figure 5): the compared methods' loss falls within a data set while it stays or rises across data
sets. Command: ``python -m analyses.figures.figure5`` (``--replot``, ``--smoke``, ``--family``). Hardware: 2 CPU cores,
10 minutes. Obtained: see ``analyses/README.md``. Table: ``figures/data/figure5.csv``, a row per method, seed, step and
test set; "across" is the mean over the other families, at the strengths of the laboratory, and people and camera that
no run has seen (``demo-cdf``).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.collapse.laboratory import BASE, RATES, STRENGTHS
from analyses.collapse.replay import Watcher, replay
from analyses.support.families import FAMILIES, data_words, family_of
from analyses.support.figure import caption_line, save_figure
from analyses.support.options import chosen_config, real_name
from analyses.support.processes import spread
from analyses.support.runner import run_study
from analyses.support.tables import read_table, store
from gsnr_toolkit import TrainConfig
from gsnr_toolkit.data.loaders import probe_loader
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.models.spec import input_spec
from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure
from gsnr_toolkit.support.atomic import write_text
from gsnr_toolkit.training.diagnosis import PLATEAU
from gsnr_toolkit.training.evaluate import evaluate

METHODS: dict[str, tuple[str, float, float]] = {
    "linear head": ("head", 0.0, RATES["head"]),
    "norms": ("norms", 0.0, RATES["norms"]),
    "last 3 blocks": ("last-3", 0.0, 1.0),
    "all": ("full", 0.0, 1.0),
    "all, SAM 0.05": ("full", 0.05, 1.0),
    "all, SAM 0.2": ("full", 0.2, 1.0),
}
"""Name to tuning, radius, and factor on the learning rate."""

EVERY, IMAGES = 50, 300
OWN, ACROSS = "own", "across"
_DASHES: dict[str, Any] = {OWN: (4, 2), ACROSS: ""}


class LossCurves(Watcher):
    """Loss and AUC on several test sets along a run.

    Args:
        config: Config of the run.
        model: Model that is trained.
        data: Not used; test sets are opened by name.
        device: Device of the model.
    """

    def __init__(self, config: TrainConfig, model: torch.nn.Module, data: Any, device: torch.device) -> None:
        del data
        self._model, self._device = model, device
        self._every = max(1, min(EVERY, config.steps // 2))
        self._loaders = {name: _loader(config, model, *place) for name, place in test_sets(config).items()}
        self.rows: list[dict[str, Any]] = []

    def before_step(self, step: int) -> None:
        """Evaluate at every ``EVERY``-th step."""
        if step % self._every == 0:
            self.finish(step)

    def finish(self, step: int) -> None:
        """Evaluate after `step` updates."""
        for name, loader in self._loaders.items():
            with preserved_rng():
                found = evaluate(self._model, loader, self._device)
            self.rows.append({"step": step, "test": name, "loss": found.loss, "auc": found.auc.value,
                              "n": found.auc.count})  # fmt: skip


def _loader(config: TrainConfig, model: torch.nn.Module, name: str, strength: float | None) -> Any:
    spec = input_spec(model)
    extra: dict[str, Any] = {} if strength is None else {"strength": strength}
    size: dict[str, Any] = {"image_size": spec.image_size, "mean": spec.mean, "std": spec.std}
    dataset = open_dataset(name, split="test", root=config.data_root, **size, **extra)
    return probe_loader(dataset, min(IMAGES, config.eval_samples, dataset.records["source"].nunique()), 150)


def test_sets(config: TrainConfig) -> dict[str, tuple[str, float | None]]:
    """Return the test sets of a run: its own data set first, the other families, other people and camera.

    Args:
        config: Config of the run.

    Returns:
        Name to data set and strength.
    """
    own, real = family_of(config.data), config.data_root is not None
    strengths: dict[str, float | None] = {**STRENGTHS, "cdf": 2.0}
    order = [own, *(name for name in (*FAMILIES, "cdf") if name != own)]
    names = {name: f"demo-{name}" for name in order}
    return {
        name: (real_name(full), None) if real else (full, config.strength if name == own else strengths[name])
        for name, full in names.items()
    }


def record_curves(config: TrainConfig, path: Path, device: str | None) -> pd.DataFrame:
    """Train once and evaluate along the way, unless the file exists.

    Args:
        config: Config of the run.
        path: CSV file of the curves.
        device: Device to train on.

    Returns:
        One row per step and test set.
    """
    if path.exists():
        return pd.read_csv(path)
    curves = replay(config, partial(LossCurves, config), device)
    rows = pd.DataFrame(curves.rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, rows.to_csv(index=False))
    return rows


def compute(chosen: argparse.Namespace) -> None:
    """Train what is missing, and write the table."""
    base = replace(BASE, data=f"demo-{chosen.family}", strength=STRENGTHS[chosen.family], stop_dead=0)
    methods = METHODS
    if chosen.smoke:
        base = replace(base, steps=16, train_samples=64, eval_samples=60, batch_size=8)
        methods = {name: METHODS[name] for name in ("linear head", "all, SAM 0.05")}
    base = chosen_config(base, chosen)
    runs = {
        (name, seed): replace(base, tuning=tuning, rho=rho, lr=base.lr * factor, seed=seed)
        for name, (tuning, rho, factor) in methods.items()
        for seed in range(chosen.seeds)
    }
    paths = [chosen.runs / "curves" / f"{config.key}.csv" for config in runs.values()]
    work = partial(record_curves, device=chosen.device)
    found = spread(work, runs.values(), paths, workers=chosen.workers)
    frames = [
        rows.assign(method=name, seed=seed, train=family_of(base.data), model=base.model, data=base.data)
        for (name, seed), rows in zip(runs, found, strict=True)
    ]
    table = pd.concat(frames, ignore_index=True)
    table["domain"] = np.where(table["test"] == table["train"], OWN, ACROSS)
    store(chosen.out, "figure5", {"": table}, base=base.to_dict(), methods=methods, seeds=chosen.seeds)


def plot(out: Path) -> None:
    """Draw the figure from the table stored in a folder."""
    table = read_table(out, "figure5")
    others = ", ".join(table.loc[table["domain"] == ACROSS, "test"].drop_duplicates())
    caption = caption_line(
        data_words(list(table["data"].drop_duplicates())),
        f"{table['model'].iloc[0]} trained on {table['train'].iloc[0]}",
        f"across: mean of {others}",
        f"n = {int(table['n'].max())} images of each",
        f"number of seeds: {table['seed'].nunique()}, bands: from the lowest to the highest",
    )
    save_figure(draw(table), out, "figure5", caption)


@in_paper_style
def draw(table: pd.DataFrame) -> Figure:
    """Draw loss and AUC over steps; ``table`` has a row per method, seed, step and test set."""
    figure = new_figure(TEXT_WIDTH, 2.9)
    loss, auc = figure.subplots(1, 2)
    _panel(loss, table, "loss", "test loss (nats)")
    _panel(auc, table, "auc", "test AUC")
    loss.axhline(PLATEAU, color=MUTED, linewidth=0.7, linestyle=(0, (1, 1.2)), zorder=1)
    auc.axhline(0.5, color=MUTED, linewidth=0.7, linestyle=(0, (1, 1.2)), zorder=1)
    loss.set_yscale("log")
    low, high = loss.get_ylim()
    ticks = [tick for tick in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 3.0, 5.0) if low <= tick <= high]
    loss.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    loss.minorticks_off()
    dress(loss, title="(a) Loss along training", note="dashed: own data set, solid: across; dotted: ln 2")
    dress(auc, title="(b) AUC of the same runs", note="dotted: chance")
    figure.legend(handles=_legend(table), loc="outside right center", fontsize=6.5)
    return figure


def _colors(table: pd.DataFrame) -> dict[str, str]:
    hues = ("sky", "purple", "green", "blue", "vermillion", "orange", "black")
    names = list(table["method"].drop_duplicates())
    return {name: OKABE_ITO[hues[index % len(hues)]] for index, name in enumerate(names)}


def _panel(ax: Axes, table: pd.DataFrame, quantity: str, label: str) -> None:
    """Draw the mean over seeds, and a band from the lowest seed to the highest."""
    by_seed = table.groupby(["method", "domain", "step", "seed"], sort=False, as_index=False)[quantity].mean()
    sns.lineplot(
        by_seed, x="step", y=quantity, hue="method", palette=_colors(table), style="domain", dashes=_DASHES,
        errorbar=("pi", 100), err_kws={"alpha": 0.12, "linewidth": 0}, legend=False, ax=ax,
    )  # fmt: skip
    ax.set(xlabel="training step", ylabel=label)


def _legend(table: pd.DataFrame) -> list[Line2D]:
    found = [Line2D([], [], color=color, label=name) for name, color in _colors(table).items()]
    dashes = Line2D([], [], color=MUTED, linestyle=(0, (4, 2)), label="own data set")
    return [*found, dashes, Line2D([], [], color=MUTED, label="across data sets")]


def main(arguments: list[str] | None = None) -> None:
    """Run the script with command-line arguments; None reads those of the process."""

    def family(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--family", default="f2f", choices=FAMILIES, help="what is trained on")

    run_study(compute, plot, __doc__, arguments, add_options=family)


if __name__ == "__main__":
    main()
