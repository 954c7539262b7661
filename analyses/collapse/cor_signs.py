"""Which way does COR move with GSNR? Controlled axes: forgery strength, label noise, batch size, depth, training step.

Claim (the paper's Corollary 1, all else equal): COR rises with GSNR. In data all else is not equal; the exact
decomposition ``log COR = log r/(1+r) - log m - log |mu|`` says which factor moved. Command:
``python -m analyses.collapse.cor_signs`` (``--smoke`` for a minute). It goes on where it was stopped and shares its runs with
the other scripts of the laboratory. Tables: ``figures/data/cor_signs.csv`` (every recorded step of every run) and
``cor_signs_axes.csv`` (rank correlations and attribution by axis); figure ``figures/cor_signs.png`` and ``.pdf``
(``--replot`` draws it from the tables).

COR and GSNR of one measurement contain the same estimate of ``|mu|^2``, so GSNR is measured a second time, on other
images along the very same runs.

Obtained (``f2f`` and ``nt``, 2 seeds, clip-lab, embedded data), rank correlation of COR with GSNR of other images:
batch size .94, .94; label noise .93, .90; strength .07, 1.0; steps .36, .35; depth .18, .05. So the sign holds along
the first two and on one family along the third; of the rest most was the shared estimate (.57, .68; .32, .16 with it).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from analyses.collapse.laboratory import BASE, Setting, family_config, run_by_family, run_folder, train_all
from analyses.collapse.predictors import escape, escape_lower
from analyses.collapse.record_again import Again, record_again
from analyses.collapse.signs_plot import draw_signs
from analyses.support.figure import caption_line, data_words, read_table, save_figure
from gsnr_toolkit import Report, TrainConfig
from gsnr_toolkit.support.atomic import write_json, write_text
from gsnr_toolkit.support.provenance import environment

TERMS = ("signal_fraction", "misspecification", "grad_norm")
APART = "gsnr_apart"
"""GSNR on other samples: COR and GSNR of one measurement share an estimate of ``|mu|^2``, whose noise moves both."""
SECOND = Again("apart", split="test", cor=False)

_FIRST = ["step", "group", "depth", "num_samples", "gsnr", "cor", "status", *TERMS]
_SECOND = ["step", "group", "gsnr"]

AXES: dict[str, tuple[str, tuple[float, ...]]] = {
    "strength": ("strength", (1.0, 1.5, 2.0, 3.0)),
    "label noise": ("label_noise", (0.0, 0.1, 0.2, 0.4)),
    "batch size": ("batch_size", (16, 32, 64)),
}
"""Axis to the field of the config that is varied, and its values."""


def axis_settings(family: str, *, smoke: bool = False) -> Iterator[tuple[str, float, Setting]]:
    """Settings along each axis for one family.

    Args:
        family: Such as ``"df"``.
        smoke: Two values of each axis, few steps.

    Yields:
        Axis, value, setting.
    """
    base = family_config(family)
    if smoke:
        base = replace(base, steps=24, train_samples=64, eval_samples=64, batch_size=8)
    for axis, (name, values) in AXES.items():
        for value in values[:2] if smoke else values:
            changed: dict[str, Any] = {name: int(value) if name == "batch_size" else value}
            yield axis, value, Setting(f"{family}-{axis}-{value:g}", replace(base, **changed))


def measured_rows(report: Report, second: Report, axis: str, value: float, family: str, seed: int) -> pd.DataFrame:
    """What was recorded along one run, the whole model and its layers.

    Args:
        report: Of the run.
        second: Of the same run and steps on other samples.
        axis: Of the setting.
        value: On the axis.
        family: Of the data.
        seed: Of the run.

    Returns:
        One row per step and group.
    """
    rows, others = (
        pd.concat([one.totals.assign(group="total", depth=-1)[columns], one.layers[columns]], ignore_index=True)
        for one, columns in ((report, _FIRST), (second, _SECOND))
    )
    apart = others.rename(columns={"gsnr": APART})
    rows = rows.merge(apart, on=["step", "group"], how="left", validate="one_to_one")
    run_means = report.trajectory
    run = {"axis": axis, "value": value, "family": family, "seed": seed}
    return rows.assign(**run, escape_radius=escape(run_means), escape_lower=escape_lower(run_means))


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations by axis and family.

    Along strength, noise and batch size a run counts once, at the step of its smallest COR; along step, the whole
    model's steps within a run; along depth, the layers at that step. The last two are averaged over runs.

    Args:
        rows: All recorded steps.

    Returns:
        One row per axis and family: the rank correlation of COR with GSNR of the same and of other samples, of GSNR
        with the axis, of COR and the escape radii with the axis, and the share of the variance of log COR that each
        factor accounts for.
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
    """The runs of a family; one that lies on several axes, as the common one does, counts once."""
    runs = {
        tuple(run[["seed", "cor", "gsnr"]].to_numpy().flat): run for _, run in part.groupby(["axis", "value", "seed"])
    }
    return list(runs.values())


def _layers(rows: pd.DataFrame, run: pd.DataFrame) -> pd.DataFrame:
    at = run.loc[run["cor"].idxmin()]
    same = (rows[["axis", "value", "family", "seed", "step"]] == at[["axis", "value", "family", "seed", "step"]]).all(
        axis=1
    )
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
    """How much of the variance of log COR goes with each factor of the decomposition.

    Args:
        part: Rows with ``signal_fraction``, ``misspecification`` and ``grad_norm``, whose product law is exact.

    Returns:
        Covariance of each term with log COR over its variance; the three add up to 1.
    """
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


def compute(
    families: Sequence[str],
    seeds: int,
    runs: Path,
    out: Path,
    *,
    smoke: bool,
    workers: int,
    device: str | None,
    fitted: Callable[[TrainConfig], TrainConfig],
) -> None:
    """Train what is missing, and write the tables.

    Args:
        families: Which families.
        seeds: Number of seeds.
        runs: Where runs are kept.
        out: Folder of the tables.
        smoke: Few values, few steps.
        workers: Processes at a time.
        device: Where to train.
        fitted: Puts a config on the chosen model and data; real data have no axis of strength.
    """
    out.mkdir(parents=True, exist_ok=True)
    places: dict[TrainConfig, list[tuple[str, float, str, int]]] = {}
    for family in families:
        for axis, value, on_demo in axis_settings(family, smoke=smoke):
            setting = replace(on_demo, config=fitted(on_demo.config))
            if axis == "strength" and setting.config.strength is None:
                continue
            for seed in range(seeds):
                places.setdefault(setting.run_config(0.0, seed), []).append((axis, value, family, seed))
    frames: list[pd.DataFrame] = []
    for config in train_all(list(places), runs, workers=workers, device=device):
        sys.stdout.write(f"{places[config][0]}: trained\n")
        sys.stdout.flush()
    for config, second in zip(
        places, record_again(list(places), SECOND, runs, workers=workers, device=device), strict=True
    ):
        report = Report.load(run_folder(runs, config) / "report")
        frames += [measured_rows(report, second, *place).assign(data=config.data) for place in places[config]]
    rows = pd.concat(frames, ignore_index=True)
    write_text(out / "cor_signs.csv", rows.to_csv(index=False))
    write_text(out / "cor_signs_axes.csv", summarise(rows).to_csv(index=False))
    write_json(out / "cor_signs.json", {**environment(), "base": BASE.to_dict(), "seeds": seeds})


def plot(out: Path) -> None:
    """Draw the figure from the stored tables, beside their folder.

    Args:
        out: Folder of the tables.
    """
    rows = read_table(out, "cor_signs")
    caption = caption_line(
        data_words(sorted(rows["data"].unique())),
        f"n = {int(rows['num_samples'].max())} images a measurement, {rows['seed'].nunique()} seeds",
        "n by row: runs, or steps and layers averaged over runs",
    )
    save_figure(draw_signs(read_table(out, "cor_signs_axes")), out, "cor_signs", caption)


def main(arguments: list[str] | None = None) -> None:
    """Run the script.

    Args:
        arguments: Of the command line; those of the process when None.
    """
    run_by_family(compute, __doc__, arguments, plot)


if __name__ == "__main__":
    main()
