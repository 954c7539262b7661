"""Which way does COR move with GSNR? Controlled axes: forgery strength, label noise, batch size, depth, training step.

Claim (the paper's Corollary 1, all else equal): COR rises with GSNR. In data all else is not equal; the exact
decomposition ``log COR = log r/(1+r) - log m - log |mu|`` shows which factor moved.
Command: ``python -m analyses.collapse.cor_signs`` (``--smoke``, ``--replot``, ``--families``).
Hardware: 2 CPU cores; resumes, and shares runs with the other scripts of the laboratory.
Obtained: rank correlation of COR with GSNR of other images .94 and .94 along batch size, .18 and .05 along depth; all
axes are in ``analyses/README.md``.

COR and GSNR of one measurement contain the same estimate of ``|mu|^2``, whose noise moves both. GSNR is therefore
measured a second time, on other images along the same runs. Tables in ``figures/data``: ``cor_signs.csv`` (every
recorded step of every run) and ``cor_signs_axes.csv`` (rank correlations and attribution by axis).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from analyses.collapse.laboratory import BASE, SMOKE, Setting, family_config, run_folder, train_all
from analyses.collapse.predictors import escape, escape_lower
from analyses.collapse.record_again import Again, record_again
from analyses.collapse.signs_plot import draw_signs
from analyses.support.families import data_words
from analyses.support.figure import caption_line, save_figure
from analyses.support.options import chosen_config
from analyses.support.runner import run_study
from analyses.support.tables import read_table, store
from gsnr_toolkit import Report, TrainConfig

TERMS = ("signal_fraction", "misspecification", "grad_norm")
APART = "gsnr_apart"
"""Column of the GSNR measured on other samples."""
SECOND = Again("apart", split="test", cor=False)

_FIRST = ["step", "group", "depth", "num_samples", "gsnr", "cor", "status", *TERMS]
_SECOND = ["step", "group", "gsnr"]

AXES: dict[str, tuple[str, tuple[float, ...]]] = {
    "strength": ("strength", (1.0, 1.5, 2.0, 3.0)),
    "label noise": ("label_noise", (0.0, 0.1, 0.2, 0.4)),
    "batch size": ("batch_size", (16, 32, 64)),
}
"""Axis to the config's field that varies, and its values."""


def axis_settings(family: str, *, smoke: bool = False) -> Iterator[tuple[str, float, Setting]]:
    """Yield axis, value and setting along each axis for one family; for ``smoke`` two values and few steps."""
    base = family_config(family)
    if smoke:
        base = replace(base, **SMOKE)
    for axis, (name, values) in AXES.items():
        for value in values[:2] if smoke else values:
            changed: dict[str, Any] = {name: int(value) if name == "batch_size" else value}
            yield axis, value, Setting(f"{family}-{axis}-{value:g}", replace(base, **changed))


def measured_rows(report: Report, second: Report, axis: str, value: float, family: str, seed: int) -> pd.DataFrame:
    """Tabulate one run, a row per step and group; ``second`` recorded the same steps on other samples."""
    rows, others = (
        pd.concat([one.totals.assign(group="total", depth=-1)[columns], one.layers[columns]], ignore_index=True)
        for one, columns in ((report, _FIRST), (second, _SECOND))
    )
    apart = others.rename(columns={"gsnr": APART})
    rows = rows.merge(apart, on=["step", "group"], how="left", validate="one_to_one")
    run = {"axis": axis, "value": value, "family": family, "seed": seed}
    lower = escape_lower(report.trajectory, below_plateau=False)
    return rows.assign(**run, escape_radius=escape(report.trajectory), escape_lower=lower)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rank correlations and shares of the variance of log COR by axis and family, from all recorded steps.

    Along strength, noise and batch size, each run counts once, at the step of its smallest COR. Along step the points
    are the whole model's steps within a run, and along depth the layers at the step of the smallest COR; both are
    averaged over runs.
    """
    whole = rows[(rows["group"] == "total") & rows["cor"].gt(0) & np.isfinite(rows["cor"])]
    found = []
    for (axis, family), part in whole.groupby(["axis", "family"]):
        ends = part.loc[part.groupby(["value", "seed"])["cor"].idxmin()]
        found.append({"axis": axis, "family": family, "num": len(ends), **_correlations(ends)})
    for family, part in whole.groupby("family"):
        runs = [run for run in _once(part) if len(run) >= 4]
        found.append({"axis": "step", "family": family, **_average([_correlations(run, "step") for run in runs])})
        layers = [layer for run in runs if len(layer := _layers(rows, run)) >= 4]
        found.append({"axis": "depth", "family": family, **_average([_correlations(one, "depth") for one in layers])})
    return pd.DataFrame(found)


def _once(part: pd.DataFrame) -> list[pd.DataFrame]:
    """Runs of a family; a run that lies on several axes, as the base setting's do, counts once."""
    runs = {
        tuple(run[["seed", "cor", "gsnr"]].to_numpy().flat): run for _, run in part.groupby(["axis", "value", "seed"])
    }
    return list(runs.values())


def _layers(rows: pd.DataFrame, run: pd.DataFrame) -> pd.DataFrame:
    at = run.loc[run["cor"].idxmin()]
    keys = ["axis", "value", "family", "seed", "step"]
    same = (rows[keys] == at[keys]).all(axis=1)
    return rows[same & (rows["group"] != "total") & rows["cor"].gt(0) & np.isfinite(rows["cor"])]


def _correlations(part: pd.DataFrame, along: str = "value") -> dict[str, float]:
    found = {
        "cor_with_gsnr": _rank(part["cor"], part["gsnr"]),
        f"cor_with_{APART}": _rank(part["cor"], part[APART]),
        "gsnr_along": _rank(part["gsnr"], part[along]),
        "cor_along": _rank(part["cor"], part[along]),
        "escape_along": _rank(part["escape_radius"], part[along]),
        "escape_lower_along": _rank(part["escape_lower"], part[along]),
    }
    return found | shares(part)


def shares(part: pd.DataFrame) -> dict[str, float]:
    """Compute each factor's share of the variance of log COR: its covariance with log COR over the variance; sum 1."""
    signs = {"signal_fraction": 1.0, "misspecification": -1.0, "grad_norm": -1.0}
    logs = {name: sign * np.log(part[name].to_numpy(dtype=float)) for name, sign in signs.items()}
    total = sum(logs.values())
    spread = float(np.var(total))
    if len(part) < 3 or not spread > 0:
        return {f"share_{name}": math.nan for name in TERMS}
    return {f"share_{name}": float(np.cov(term, total, ddof=0)[0, 1]) / spread for name, term in logs.items()}


def _rank(one: pd.Series, other: pd.Series) -> float:
    good = np.isfinite(one) & np.isfinite(other)
    if good.sum() < 3 or one[good].nunique() < 2 or other[good].nunique() < 2:
        return math.nan
    return float(spearmanr(one[good], other[good]).statistic)


def _average(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    if not rows:
        return {"num": 0}
    return {"num": len(rows), **pd.DataFrame(rows).mean().to_dict()}


def compute(chosen: argparse.Namespace) -> None:
    """Train what is missing, record GSNR a second time, and write the tables."""
    places: dict[TrainConfig, list[tuple[str, float, str, int]]] = {}
    for family in chosen.families:
        for axis, value, on_demo in axis_settings(family, smoke=chosen.smoke):
            setting = replace(on_demo, config=chosen_config(on_demo.config, chosen))
            if axis == "strength" and setting.config.strength is None:  # real data have no such axis
                continue
            for seed in range(chosen.seeds):
                places.setdefault(setting.run_config(0.0, seed), []).append((axis, value, family, seed))
    place = {"workers": chosen.workers, "device": chosen.device}
    for config in train_all(list(places), chosen.runs, **place):
        print(f"{places[config][0]}: trained", flush=True)
    frames: list[pd.DataFrame] = []
    for config, second in zip(places, record_again(list(places), SECOND, chosen.runs, **place), strict=True):
        report = Report.load(run_folder(chosen.runs, config) / "report")
        frames += [measured_rows(report, second, *at).assign(data=config.data) for at in places[config]]
    rows = pd.concat(frames, ignore_index=True)
    tables = {"": rows, "_axes": summarise(rows)}
    store(chosen.out, "cor_signs", tables, digits=None, base=BASE.to_dict(), seeds=chosen.seeds)


def plot(out: Path) -> None:
    """Draw the figure from the stored tables, beside their folder."""
    rows = read_table(out, "cor_signs")
    caption = caption_line(
        data_words(sorted(rows["data"].unique())),
        f"n = {int(rows['num_samples'].max())} images a measurement, {rows['seed'].nunique()} seeds",
        "n by row: runs, or steps and layers averaged over runs",
    )
    save_figure(draw_signs(read_table(out, "cor_signs_axes")), out, "cor_signs", caption)


def main(arguments: list[str] | None = None) -> None:
    """Run the script."""
    run_study(compute, plot, __doc__, arguments, families=("f2f", "nt"))


if __name__ == "__main__":
    main()
