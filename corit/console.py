"""Results of the commands on a terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from corit.scoring.evaluate import wide_table
from corit.scoring.metrics import METRICS

if TYPE_CHECKING:
    from corit.model.trained import Trained
    from corit.prediction.predict import Predictions
    from corit.proxy.check import ProxyCheck

__all__ = ["show_ablation", "show_evaluation", "show_predictions", "show_proxy_check", "show_training"]


def show_training(result: dict[str, Any], folder: Path) -> None:
    """Print the result of :func:`corit.training.train.train_detector`, and the folder it is in."""
    console = _console()
    console.print(
        f"{result['method']}: {result['steps']} steps, {result['status']}; validation AUC "
        f"{result['val_auc_selected']:.3f} at step {result['selected_step']} (selected), "
        f"{result['val_auc_last']:.3f} at the last"
    )
    table = _table("test AUC", ["data", "weights", "level", "AUC [95 %]", "real", "fake"])
    for row in result["test"]:
        text = _interval(row["value"], row["low"], row["high"])
        table.add_row(row["data"], row["selection"], row["level"], text, str(row["real"]), str(row["fake"]))
    console.print(table)
    console.print(f"{folder / 'selected.safetensors'}  (corit predict FILE --detector ...)", style="dim")


def show_evaluation(found: pd.DataFrame, level: str, folder: Path | None) -> None:
    """Print the metrics of a level, ``"video"`` or ``"frame"``, and the folder they were saved to, if they were."""
    console = _console()
    wide = wide_table(found, level)
    perturbed = wide["perturbation"].nunique() > 1
    names = [
        "data",
        *(["perturbation"] if perturbed else []),
        *(name for name in METRICS if name in wide),
        "real",
        "fake",
    ]
    table = _table(f"{found['detector'].iloc[0]}, by {level}", names)
    for row in wide.to_dict("records"):
        # only one interval fits the line; results.csv has the others
        cells = (
            str(row[name]) if name == "auc" or name not in METRICS else row[name].partition(" ")[0] for name in names
        )
        table.add_row(*cells)
    console.print(table)
    first = found.iloc[0]
    console.print(
        f"trained on {first['trained_on']}; weights: {first['selection']}; intervals: 95 %, bootstrap over videos "
        "(results.csv has those of all measures)"
    )
    for protocol, rows in wide.groupby("protocol", sort=False):
        console.print(f"{', '.join(dict.fromkeys(rows['data']))}: {protocol}", style="dim")
    if folder is not None:
        console.print(f"{folder}: results.csv, scores.csv", style="dim")


def show_predictions(
    found: Predictions, trained: Trained, folder: Path | None, *, as_json: bool = False, asked_for_maps: bool = True
) -> None:
    """Print the scores of files: as a table, or with ``as_json`` as JSON and nothing else on stdout."""
    if as_json:
        rows = [
            {name: None if value != value else value for name, value in row.items()}
            for row in found.files.to_dict("records")
        ]
        for row in rows:
            row["heatmap"] = str(found.heatmaps[row["file"]]) if row["file"] in found.heatmaps else None
        sys.stdout.write(
            json.dumps({"detector": trained.name, "demo": trained.is_demo, "files": rows}, indent=2) + "\n"
        )
        return
    console = _console()
    table = _table(f"{trained.name}: probability of being fake", ["file", "probability", "answer", "frames", "note"])
    for row in found.files.to_dict("records"):
        score = "" if row["probability"] != row["probability"] else f"{row['probability']:.3f}"
        table.add_row(row["file"], score, row["answer"], str(row["frames"]), row["note"])
    console.print(table)
    if folder is not None:
        maps = f", {len(found.heatmaps)} heat maps" if found.heatmaps else ""
        console.print(f"{folder}: scores.csv, frames.csv{maps}", style="dim")
        if asked_for_maps and not trained.has_regions:
            console.print("no heat maps: this detector has no regions", style="dim")


def show_ablation(summary: pd.DataFrame, folder: Path) -> None:
    """Print the table of :func:`corit.training.ablate.summarise`, and the folder it is in."""
    seeds = int(summary["seeds"].max())
    table = _table(
        f"test AUC by video, mean [smallest, largest] over {seeds} seed{'s' if seeds > 1 else ''}",
        ["variant", "data", "selected on validation", "last step", "validation AUC"],
    )
    for (variant, data), rows in summary.groupby(["variant", "data"], sort=False):
        by = rows.set_index("selection")
        cells = [_interval(*by.loc[name, ["auc", "auc_min", "auc_max"]]) if name in by.index else "" for name in _BOTH]
        table.add_row(str(variant), str(data), *cells, f"{by['val_auc'].iloc[-1]:.3f}")
    console = _console()
    console.print(table)
    console.print(f"{folder / 'ablation.csv'}; differences within the spread over seeds mean nothing", style="dim")


def show_proxy_check(check: ProxyCheck, folder: Path | None) -> None:
    """Print how closely the proxy GSNR follows the true one, and the folder of the tables if they were saved."""
    console = _console()
    table = _table("proxy and true GSNR by layer", ["data", "step", "layer", "proxy", "true", "variance of c / z"])
    for row in check.table.to_dict("records"):
        numbers = [f"{row[name]:.3g}" for name in ("proxy_gsnr", "gsnr", "variance_ratio")]
        table.add_row(str(row["data"]), str(row["step"]), str(row["group"]), *numbers)
    console.print(table)
    ranks = _table("rank correlations", ["over", "data", "step", "layer", "points", "Spearman"])
    for row in check.correlations.astype(object).where(check.correlations.notna(), "").to_dict("records"):
        spearman = "undefined" if row["spearman"] == "" else f"{row['spearman']:.2f}"
        step = "" if row["step"] == "" else f"{float(row['step']):g}"
        ranks.add_row(str(row["scope"]), str(row["data"]), step, str(row["group"]), str(row["count"]), spearman)
    console.print(ranks)
    console.print(check.sentence)
    if folder is not None:
        console.print(f"{folder / 'proxy_gsnr.csv'}, {folder / 'rank_correlations.csv'}", style="dim")


_BOTH = ("selected", "last")


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f}" if low != low or low == high else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _table(title: str, names: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in names:
        number = name in (*METRICS, "real", "fake", "probability", "frames")
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    return table


def _console() -> Console:
    # no markup, because file names may contain brackets
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)
