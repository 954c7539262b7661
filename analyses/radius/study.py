"""At which radius does SAM fail, judged by the plain run's own time on the plateau, and what foretells it?

Question: is the margin radius of a plain run, with nothing fitted, where SAM no longer leaves the plateau?
Command: ``python -m analyses.radius.study`` (``--smoke``, ``--replot``, ``--only digits-mlp,wine-mlp``).
Hardware: 1 CPU core, about an hour; resumes, and writes its tables after every run.
Obtained: see ``analyses/README.md``.

Tables in ``figures/data``: ``radius_study.csv`` (a row per setting), ``radius_study_runs.csv`` (a row per setting and
seed), ``radius_study_trials.csv`` (a row per trial) and ``radius_study_scores.csv`` (a row per candidate and set of
settings).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.collapse.scoring import score_table
from analyses.radius.plots import plot_study
from analyses.radius.settings import HELD_OUT, SETTINGS
from analyses.radius.trials import FEWEST, HORIZON, PRECISION, study_unit
from analyses.support.options import ROOT, names
from analyses.support.runner import run_study
from analyses.support.tables import store
from gsnr_toolkit.support.atomic import read_json, write_json

NAME = "radius_study"

_JUDGED: dict[str, Any] = {
    "horizon": HORIZON, "fewest": FEWEST, "precision": PRECISION, "held_out": sorted(HELD_OUT),
}  # fmt: skip

WORK = ROOT / "runs" / "radius"
"""Default folder of the finished runs."""

CANDIDATES = (
    "margin_radius", "margin_q10", "margin_q30", "margin_q70", "margin_median", "margin_min", "margin_max",
    "margin_end", "margin_early", "margin_sam_q50", "margin_probe", "phi_q10", "phi_q50", "cor", "cor_start", "cor_end",
    "gsnr", "alignment", "grad_norm",
)  # fmt: skip
"""Columns that are scored against the failing radius."""

_MEDIANS = (*(name for name in CANDIDATES if name != "margin_radius"), "margin_q50", "plain_steps")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the two studies of this folder."""
    parser.set_defaults(seeds=3, runs=WORK)
    parser.add_argument("--only", type=names, default="", help="names of settings, with commas")


def chosen_settings(chosen: argparse.Namespace) -> list[tuple[str, int]]:
    """Settings and seeds to run: all first seeds first, and two seeds of those whose steps are dear."""
    wanted = chosen.only or (["digits-mlp", "wine-mlp"] if chosen.smoke else list(SETTINGS))
    seeds = 1 if chosen.smoke else chosen.seeds
    pairs = [(name, seed) for seed in range(seeds) for name in wanted]
    pairs = [(name, seed) for name, seed in pairs if not SETTINGS[name].dear or seed < 2]
    return sorted(pairs, key=lambda pair: (SETTINGS[pair[0]].dear, pair[1]))


def compute(chosen: argparse.Namespace) -> None:
    """Study what is missing, and write the tables after each unit."""
    units = []
    for name, seed in chosen_settings(chosen):
        path = Path(chosen.runs) / "study" / f"{name}_{seed}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, study_unit(SETTINGS[name], seed))
        units.append(read_json(path))
        unit = units[-1]
        print(
            f"{name:<20} seed {seed}  plain {unit['plain_left_at']}  fails {unit['low']:.3g} to {unit['high']:.3g} "
            f"({unit['outcome']})  margin {unit.get('margin_q50', math.nan):.3g}",
            flush=True,
        )
        store(chosen.out, NAME, tables(units), **_JUDGED)
    found = tables(units)  # the scores' intervals take minutes, so they are computed once
    store(chosen.out, NAME, found | {"_scores": scores(found[""])}, **_JUDGED)


def tables(units: list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Return the tables of the units finished so far: settings, runs and trials."""
    trials = pd.DataFrame([{"setting": unit["setting"], **trial} for unit in units for trial in unit["trials"]])
    runs = pd.DataFrame([{key: value for key, value in unit.items() if key != "trials"} for unit in units])
    runs["failing_radius"] = _middle(runs["low"], runs["high"])
    runs["gain_radius"] = _middle(runs["gain_low"], runs["gain_high"])
    return {"": summarise(runs), "_runs": runs, "_trials": trials}


def _middle(low: pd.Series, high: pd.Series) -> pd.Series:
    """Geometric middle of a bracket; NaN where nothing failed or nothing trained."""
    return pd.Series(np.sqrt(low * high)).where((low > 0) & np.isfinite(high))


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per setting: medians over seeds, and the range of the failing radius over seeds."""
    runs = runs.assign(plain_steps=runs["plain_left_at"])
    rows = []
    for name, group in runs.groupby("setting", sort=False):
        setting = SETTINGS[str(name)]
        row = {
            "setting": name, "kind": setting.kind, "real": setting.real, "held_out": name in HELD_OUT,
            "num_seeds": len(group), "failing_radius": group["failing_radius"].median(),
            "failing_low": group["low"].min(), "failing_high": group["high"].max(),
            "gain_radius": group["gain_radius"].median(),
            "outcome": ", ".join(sorted(set(group["outcome"]))),
        }  # fmt: skip
        row |= {column: group[column].median() for column in _MEDIANS if column in group}
        row |= {column: group[column].median() for column in ("find_low", "find_high", "find_passes", "sweep_passes")}
        row["find_holds"] = _held(group)
        rows.append(row)
    return pd.DataFrame(rows).rename(columns={"margin_q50": "margin_radius"})


def _held(group: pd.DataFrame) -> float:
    """Share of seeds whose failing radius the range test's bracket holds, within the width of both brackets."""
    known = group.dropna(subset=["low", "find_low"])
    if known.empty:
        return math.nan
    holds = (known["find_low"] <= known["high"]) & (known["find_high"] >= known["low"])
    return float(holds.mean())


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """Score all candidates on all settings, on the held-out ones, on the real ones, and on those tuned on."""
    parts = {
        "all": table, "held out": table[table["held_out"]], "real": table[table["real"]],
        "not held out": table[~table["held_out"]],
    }  # fmt: skip
    known = [name for name in CANDIDATES if name in table]
    found = [
        score_table(part, known, target).assign(settings=name, target=target)
        for target in ("failing_radius", "gain_radius")
        for name, part in parts.items()
    ]
    return pd.concat(found, ignore_index=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the script."""
    run_study(compute, plot_study, __doc__, arguments, add_options=add_options)


if __name__ == "__main__":
    main()
