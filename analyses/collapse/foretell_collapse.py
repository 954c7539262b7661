"""Does COR, or anything else that a plain run shows, foretell the radius at which SAM training collapses?

Claim (the paper's abstract): the critical optimization radius marks where SAM training falls to chance.
Command: ``python -m analyses.collapse.foretell_collapse`` (``--smoke``, ``--replot``, ``--only`` names of settings).
Hardware: 2 CPU cores, about two hours; an interrupted study resumes.
Obtained: COR has rank correlation .52 [-.04, .82] with the radius found; all results are in ``analyses/README.md``.

Tables in ``figures/data``: ``foretell_collapse.csv`` (a row per setting), ``_sweep`` (per run), ``_scores`` (per
candidate), ``_steps`` (per recorded step of the plain runs), ``_curvature`` (their Lanczos radii) and ``_early``
(candidates from the first steps alone). ``figure2`` draws the curves of AUC against rho.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.collapse.early import early_scores
from analyses.collapse.foretell_plots import FIRST, TARGET, draw_early, draw_foretold, draw_scores
from analyses.collapse.laboratory import (
    BASE,
    RATES,
    SMOKE,
    STRENGTHS,
    Setting,
    collapsed,
    explore,
    family_config,
    run_folder,
    table,
)
from analyses.collapse.predictors import OTHERS, RADII, over_seeds, read_predictors
from analyses.collapse.record_again import Again, kept_record, record_again
from analyses.collapse.scoring import combined_score, score_table
from analyses.support.families import data_words
from analyses.support.figure import caption_line, save_figure
from analyses.support.options import chosen_config, names
from analyses.support.runner import run_study
from analyses.support.tables import store
from gsnr_toolkit import Report, TrainConfig
from gsnr_toolkit.sweeps.collapse import collapse_radii

NAME = "foretell_collapse"

WRITE_EVERY = 300.0
"""Seconds between two versions of the tables while runs finish; the finished runs themselves are always kept."""

TARGETS = (FIRST, TARGET)
"""Radii to score candidates against: the first of the grid that fails, and the middle of the bracket."""

DEAD = "plain_run_dead"
"""Status of a setting in which a run fails without SAM; its radius of collapse is undefined."""

CURVATURE = Again("curvature", lipschitz=True)
_MEASURED = ("step", "num_samples", "grad_norm", "cor", "lipschitz_radius")
_CURVATURE_COLUMNS = ["setting", "seed", *_MEASURED, "largest_eigenvalue", "cpu"]
_FOUND = ("empirical_radius", "empirical_low", "empirical_high")

TOGETHER = 4
"""Number of settings that are completed together, so that first results exist early."""

PANELS = ["cor", "cor_layer", "slope_radius", "lipschitz_radius", "escape_lower", "half_cosine_radius"]


def settings(*, smoke: bool = False) -> list[Setting]:
    """Return the settings of the study, the most important first; for ``smoke`` two of a few steps."""
    if smoke:
        small = replace(BASE, **SMOKE)
        return [
            Setting(f"{family}-smoke", replace(small, data=f"demo-{family}"), (0.05, 2.0)) for family in ("df", "nt")
        ]
    full = {family: family_config(family) for family in STRENGTHS}
    # With all parameters trained, start low: figure2 draws the whole curve.
    found = [Setting(f"{family}-full", config, start=0.02) for family, config in full.items()]
    found += [
        Setting(f"{family}-norms", replace(config, tuning="norms", lr=config.lr * RATES["norms"]), start=0.2)
        for family, config in full.items()
    ]
    found += [Setting(f"{family}-slow", replace(full[family], lr=3e-4)) for family in ("df", "f2f")]
    found += [Setting(f"{family}-strong", replace(full[family], strength=3.0)) for family in ("f2f", "nt")]
    found += [Setting(f"{family}-last3", replace(config, tuning="last-3")) for family, config in full.items()]
    found += [
        Setting(f"{family}-b{size}", replace(full[family], batch_size=size))
        for family, size in (("f2f", 16), ("df", 64))
    ]
    return found


def compute(chosen: argparse.Namespace) -> None:
    """Train what is missing; write all tables every few minutes and at the end."""
    wanted = [replace(item, config=chosen_config(item.config, chosen)) for item in settings(smoke=chosen.smoke)]
    if chosen.only:
        wanted = [item for item in wanted if item.name in chosen.only]
    place = {"workers": chosen.workers, "device": chosen.device}
    written = time.monotonic()
    for start in range(0, len(wanted), TOGETHER):
        some = wanted[start : start + TOGETHER]
        for line in explore(some, chosen.seeds, chosen.runs, **place):
            print(line, flush=True)
            if time.monotonic() - written > WRITE_EVERY:
                write_tables(wanted, chosen)
                written = time.monotonic()
        plain = [item.run_config(0.0, seed) for item in some for seed in range(chosen.seeds)]
        record_again(plain, CURVATURE, chosen.runs, **place)
    write_tables(wanted, chosen)


def write_tables(wanted: list[Setting], chosen: argparse.Namespace) -> None:
    """Write every table from the finished runs of the settings."""
    runs = chosen.runs
    sweep = table(wanted, chosen.seeds, runs)
    by_setting, steps = summarise(wanted, sweep, runs), recorded_steps(wanted, sweep, runs)
    tables = {"_sweep": sweep, "": by_setting, "_steps": steps, "_curvature": recorded_curvature(wanted, sweep, runs)}
    if np.isfinite(by_setting["empirical_radius"]).sum() >= 4:
        tables["_scores"] = scores(by_setting)
        tables["_early"] = early_scores(by_setting, steps, TARGETS)
    configs = {item.name: item.config.to_dict() for item in wanted}
    store(chosen.out, NAME, tables, digits=None, settings=configs, seeds=chosen.seeds)


def _plain_runs(setting: Setting, sweep: pd.DataFrame) -> Iterator[tuple[int, TrainConfig]]:
    """Seed and config of every finished plain run of a setting."""
    for seed in sweep[(sweep["setting"] == setting.name) & (sweep["rho"] == 0)]["seed"]:
        yield int(seed), setting.run_config(0.0, int(seed))


def summarise(wanted: list[Setting], sweep: pd.DataFrame, runs: Path) -> pd.DataFrame:
    """Return one row per setting: where it collapsed, and what its plain runs foretold.

    If a plain run of a setting fails, the failure does not depend on the radius: the setting has no empirical radius.
    """
    radii = collapse_radii(sweep, by=("setting",)).set_index("setting")
    middles = middle_radii(sweep)
    rows = []
    for setting in wanted:
        if setting.name not in radii.index:
            continue
        own = sweep[(sweep["setting"] == setting.name) & (sweep["rho"] == 0)]
        config, found = setting.config, radii.loc[setting.name]
        candidates = [
            read_predictors(Report.load(run_folder(runs, run) / "report"), run.lr, kept_record(run, CURVATURE, runs))
            for _, run in _plain_runs(setting, sweep)
        ]
        dead = any(collapsed(row) for row in own.to_dict("records"))
        rows.append(
            {
                "setting": setting.name,
                "family": config.data.removeprefix("demo-"),
                "tuning": config.tuning,
                "strength": config.strength or 1.0,
                "learning_rate": config.lr,
                "label_noise": config.label_noise,
                "batch_size": config.batch_size,
                "num_seeds": int(found["num_seeds"]),
                "plain_auc": float(own["test_auc"].mean()),
                "status": DEAD if dead else found["status"],
                **{name: np.nan if dead else float(found[name]) for name in _FOUND},
                "middle_radius": np.nan if dead else middles.get(setting.name, np.nan),
                **over_seeds(pd.DataFrame(candidates)),
            }
        )
    return pd.DataFrame(rows)


def middle_radii(sweep: pd.DataFrame) -> dict[str, float]:
    """Return each setting's collapse radius, more finely than the grid: the middle of each seed's bracket, averaged.

    Middles and averages are geometric. A bracket extends from the last radius that trains to the first that does not;
    the radius is NaN if a seed has no bracket.
    """
    brackets = [collapse_radii(rows, by=("setting",)) for _, rows in sweep.groupby("seed")]
    if not brackets:
        return {}
    alone = pd.concat(brackets).replace({"empirical_low": 0.0, "empirical_radius": np.inf}, np.nan)
    middles = 0.5 * np.log(alone["empirical_low"] * alone["empirical_radius"])
    by_setting = middles.groupby(alone["setting"], sort=False)
    return {str(name): float(np.exp(values.mean(skipna=False))) for name, values in by_setting}


def recorded_steps(wanted: list[Setting], sweep: pd.DataFrame, runs: Path) -> pd.DataFrame:
    """Return what was recorded along every plain run for the whole model, one row per setting, seed and step."""
    frames = []
    for setting in wanted:
        for seed, config in _plain_runs(setting, sweep):
            folder = run_folder(runs, config) / "report"
            frame = pd.read_csv(folder / "totals.csv").merge(pd.read_csv(folder / "trajectory.csv"), on="step")
            frames.append(frame.assign(setting=setting.name, seed=seed))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def recorded_curvature(wanted: list[Setting], sweep: pd.DataFrame, runs: Path) -> pd.DataFrame:
    """Return the second record of every plain run: COR and the Lanczos radius at the step of its smallest COR."""
    rows = []
    for setting in wanted:
        for seed, config in _plain_runs(setting, sweep):
            found = kept_record(config, CURVATURE, runs)
            if found is not None:
                total = {name: found.total[name] for name in _MEASURED}
                curvature = total["grad_norm"] / total["lipschitz_radius"]
                about = {"setting": setting.name, "seed": seed}
                rows.append({**about, **total, "largest_eigenvalue": curvature, "cpu": found.provenance.get("cpu")})
    return pd.DataFrame(rows, columns=_CURVATURE_COLUMNS)


def scores(by_setting: pd.DataFrame) -> pd.DataFrame:
    """Score all candidates against both empirical radii, over all settings and over those that train all parameters."""
    frames = [_scores(by_setting, target).assign(target=target) for target in TARGETS]
    return pd.concat(frames, ignore_index=True)


def _scores(by_setting: pd.DataFrame, target: str) -> pd.DataFrame:
    candidates = [*RADII, *OTHERS]
    scopes = {"all": by_setting, "full": by_setting[by_setting["tuning"] == "full"]}
    frames = [score_table(rows, candidates, target).assign(scope=scope) for scope, rows in scopes.items()]
    found = by_setting[target].to_numpy(dtype=float)
    joint = [
        {
            "candidate": "+".join(columns),
            "scope": "all",
            **combined_score([by_setting[name].to_numpy(dtype=float) for name in columns], found),
        }
        for columns in (["grad_norm", "gsnr"], ["escape_lower", "gsnr"])
    ]
    return pd.concat([*frames, pd.DataFrame(joint)], ignore_index=True)


def plot(out: Path) -> None:
    """Draw every figure from the stored tables."""
    if not (out / f"{NAME}_scores.csv").exists():
        print("Nothing to draw: scores need at least four settings that have collapsed.", flush=True)
        return
    by_setting, scored, sweep, early = (
        pd.read_csv(out / f"{NAME}{suffix}.csv") for suffix in ("", "_scores", "_sweep", "_early")
    )
    common = (
        data_words(sorted(sweep["data"].unique())),
        ", ".join(sorted(sweep["model"].unique())),
        f"{int(by_setting['middle_radius'].notna().sum())} settings, {sweep['seed'].nunique()} seeds",
        f"n = {int(sweep['num_test'].max())} test images a run",
    )
    brackets = (
        "brackets: 95 % bootstrap over settings, bars: from the last radius that trains to the first that does not"
    )
    bars = "bars: 95 % bootstrap over settings"
    save_figure(draw_foretold(by_setting, scored, PANELS), out, NAME, caption_line(*common, brackets))
    save_figure(draw_scores(scored), out, f"{NAME}_scores", caption_line(*common, bars))
    save_figure(draw_early(early), out, f"{NAME}_early", caption_line(*common, bars))


def main(arguments: list[str] | None = None) -> None:
    """Run the study."""

    def only(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--only", type=names, help="names of settings, with commas")

    run_study(compute, plot, __doc__, arguments, add_options=only)


if __name__ == "__main__":
    main()
