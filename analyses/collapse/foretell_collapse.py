"""Does COR, or anything else that a plain run shows, foretell the radius at which SAM training collapses?

Claim (the paper's abstract): the critical optimization radius tells at which radius SAM training falls to chance.
Command: ``python -m analyses.collapse.foretell_collapse`` (``--smoke`` for minutes, ``--replot`` from the stored tables,
``--device cuda`` on a GPU). It goes on where it was stopped. Tables: ``figures/data/foretell_collapse.csv`` (a row per
setting), ``..._sweep.csv`` (a row per run), ``..._scores.csv`` (a row per candidate), ``..._steps.csv`` (what was
recorded along the plain runs), ``..._curvature.csv`` (their Lanczos radii), ``..._early.csv`` (candidates over the
first steps alone); figures ``figures/foretell_collapse*.png`` and ``.pdf``; ``figure2`` draws the curves of AUC against
rho. Hardware: 2 CPU cores, about two hours.

Obtained (17 settings, embedded data, ``clip-lab``, 2 seeds): COR has rank correlation .52 [-.04, .82] with the radius
where training fails, and is off by a factor of 1.6 [1.2, 2.0] after one constant, 3.4; the Lanczos radius .59 and 1.7,
GSNR .52 and 1.9, gradient norm .12, escape radius .30 (n = 8), its bound .41 and 1.4. Over the first 120 of 300 steps
COR has .25, GSNR .50, the escape radius's bound .54. Each setting trains at some radius above its COR.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.collapse.early import early_scores
from analyses.collapse.foretell_plots import FIRST, TARGET, draw_early, draw_foretold, draw_scores
from analyses.collapse.laboratory import (
    BASE,
    RATES,
    STRENGTHS,
    Setting,
    chosen_config,
    collapsed,
    common_options,
    explore,
    family_config,
    read_options,
    run_folder,
    table,
)
from analyses.collapse.predictors import OTHERS, RADII, setting_predictors
from analyses.collapse.record_again import Again, kept_record, record_again
from analyses.collapse.scoring import combined_score, score_table
from analyses.support.figure import caption_line, data_words, save_figure
from gsnr_toolkit import Report
from gsnr_toolkit.support.atomic import write_json, write_text
from gsnr_toolkit.support.provenance import environment
from gsnr_toolkit.sweeps.collapse import collapse_radii

WRITE_EVERY = 300.0
"""Seconds between two versions of the tables while runs come in: finished runs are kept anyway."""
TARGETS = (FIRST, TARGET)
"""Radii found that candidates are scored against: the first of the grid that fails, and the bracket's middle."""

DEAD = "plain_run_dead"
"""Status of a setting that is none, since a run fails without SAM."""

CURVATURE = Again("curvature", lipschitz=True)
_CURVATURE_COLUMNS = [
    "setting",
    "seed",
    "step",
    "num_samples",
    "grad_norm",
    "cor",
    "lipschitz_radius",
    "largest_eigenvalue",
    "cpu",
]
_FOUND = ("empirical_radius", "empirical_low", "empirical_high")

TOGETHER = 4
"""Settings that are brought to their end together, so that a result exists early."""


def settings(*, smoke: bool = False) -> list[Setting]:
    """The settings of the study, those that matter most first.

    Args:
        smoke: Two settings of a few steps, to see that everything runs.

    Returns:
        Settings with unique names.
    """
    if smoke:
        small = replace(BASE, steps=24, train_samples=64, eval_samples=64, batch_size=8)
        return [
            Setting(f"{family}-smoke", replace(small, data=f"demo-{family}"), (0.05, 2.0)) for family in ("df", "nt")
        ]
    full = {family: family_config(family) for family in STRENGTHS}
    # the whole curve where all parameters are trained: from the smallest radius on
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


def compute(chosen: list[Setting], seeds: int, runs: Path, out: Path, *, workers: int, device: str | None) -> None:
    """Train what is missing, and write all tables every few minutes.

    Args:
        chosen: Settings.
        seeds: Number of seeds.
        runs: Where runs are kept.
        out: Folder of the tables.
        workers: Processes at a time.
        device: Where to train.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = time.monotonic()
    for start in range(0, len(chosen), TOGETHER):
        some = chosen[start : start + TOGETHER]
        for line in explore(some, seeds, runs, workers=workers, device=device):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            if time.monotonic() - written > WRITE_EVERY:
                write_tables(chosen, seeds, runs, out)
                written = time.monotonic()
        plain = [item.run_config(0.0, seed) for item in some for seed in range(seeds)]
        record_again(plain, CURVATURE, runs, workers=workers, device=device)
    write_tables(chosen, seeds, runs, out)
    provenance = {**environment(), "settings": {item.name: item.config.to_dict() for item in chosen}, "seeds": seeds}
    write_json(out / "foretell_collapse.json", provenance)


def write_tables(chosen: list[Setting], seeds: int, runs: Path, out: Path) -> None:
    """Write every table from the finished runs.

    Args:
        chosen: Settings.
        seeds: Number of seeds.
        runs: Where runs are kept.
        out: Folder of the tables.
    """
    sweep = table(chosen, seeds, runs)
    by_setting, steps = summarise(chosen, sweep, runs), recorded_steps(chosen, sweep, runs)
    tables = {"_sweep": sweep, "": by_setting, "_steps": steps, "_curvature": recorded_curvature(chosen, sweep, runs)}
    if np.isfinite(by_setting["empirical_radius"]).sum() >= 4:
        tables["_scores"] = scores(by_setting)
        tables["_early"] = early_scores(by_setting, steps, TARGETS)
    for suffix, frame in tables.items():
        write_text(out / f"foretell_collapse{suffix}.csv", frame.to_csv(index=False))


def summarise(chosen: list[Setting], sweep: pd.DataFrame, runs: Path) -> pd.DataFrame:
    """One row per setting: where it collapsed, and what its plain runs foretold.

    Where training fails is not a matter of the radius in a setting with a plain run that fails, so such a setting has
    no empirical radius.

    Args:
        chosen: Settings.
        sweep: All finished runs.
        runs: Where runs are kept.

    Returns:
        The table that every score is computed from.
    """
    radii = collapse_radii(sweep, by=("setting",)).set_index("setting")
    middles = middle_radii(sweep)
    rows = []
    for setting in chosen:
        if setting.name not in radii.index:
            continue
        own = sweep[(sweep["setting"] == setting.name) & (sweep["rho"] == 0)]
        configs = [setting.run_config(0.0, int(seed)) for seed in own["seed"]]
        records = [
            (Report.load(run_folder(runs, each) / "report"), kept_record(each, CURVATURE, runs)) for each in configs
        ]
        config, found = setting.config, radii.loc[setting.name]
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
                **setting_predictors(records, config.lr),
            }
        )
    return pd.DataFrame(rows)


def middle_radii(sweep: pd.DataFrame) -> dict[str, float]:
    """Where a setting collapses, finer than the grid: the middle of each seed's bracket, averaged over seeds.

    Middles and averages are geometric. A bracket reaches from the last radius that trains to the first that does not.

    Args:
        sweep: All finished runs.

    Returns:
        Setting to radius; NaN where a seed has no bracket.
    """
    brackets = [collapse_radii(rows, by=("setting",)) for _, rows in sweep.groupby("seed")]
    if not brackets:
        return {}
    alone = pd.concat(brackets).replace({"empirical_low": 0.0, "empirical_radius": np.inf}, np.nan)
    middles = 0.5 * np.log(alone["empirical_low"] * alone["empirical_radius"])
    by_setting = middles.groupby(alone["setting"], sort=False)
    return {str(name): float(np.exp(values.mean(skipna=False))) for name, values in by_setting}


def recorded_steps(chosen: list[Setting], sweep: pd.DataFrame, runs: Path) -> pd.DataFrame:
    """What was recorded along every plain run, the whole model's row by step.

    Args:
        chosen: Settings.
        sweep: All finished runs.
        runs: Where runs are kept.

    Returns:
        One row per setting, seed and step.
    """
    frames = []
    for setting in chosen:
        for seed in sweep[(sweep["setting"] == setting.name) & (sweep["rho"] == 0)]["seed"]:
            folder = run_folder(runs, setting.run_config(0.0, int(seed))) / "report"
            frame = pd.read_csv(folder / "totals.csv").merge(pd.read_csv(folder / "trajectory.csv"), on="step")
            frames.append(frame.assign(setting=setting.name, seed=int(seed)))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def recorded_curvature(chosen: list[Setting], sweep: pd.DataFrame, runs: Path) -> pd.DataFrame:
    """The second record of every plain run: COR and the Lanczos radius at the step of its smallest COR.

    Args:
        chosen: Settings.
        sweep: All finished runs.
        runs: Where runs are kept.

    Returns:
        One row per setting and seed.
    """
    rows = []
    for setting in chosen:
        for seed in sweep[(sweep["setting"] == setting.name) & (sweep["rho"] == 0)]["seed"]:
            found = kept_record(setting.run_config(0.0, int(seed)), CURVATURE, runs)
            if found is not None:
                total = {
                    name: found.total[name] for name in ("step", "num_samples", "grad_norm", "cor", "lipschitz_radius")
                }
                curvature = total["grad_norm"] / total["lipschitz_radius"]
                rows.append(
                    {
                        "setting": setting.name,
                        "seed": int(seed),
                        **total,
                        "largest_eigenvalue": curvature,
                        "cpu": found.provenance.get("cpu"),
                    }
                )
    return pd.DataFrame(rows, columns=_CURVATURE_COLUMNS)


def scores(by_setting: pd.DataFrame) -> pd.DataFrame:
    """Every candidate against both empirical radii, over all settings and over those that train all parameters.

    Args:
        by_setting: :func:`summarise`'s table.

    Returns:
        One row per candidate, scope and target.
    """
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


PANELS = ["cor", "cor_layer", "slope_radius", "lipschitz_radius", "escape_lower", "half_cosine_radius"]


def plot(out: Path) -> None:
    """Draw every figure from the stored tables, beside their folder.

    Args:
        out: Folder of the tables.
    """
    by_setting = pd.read_csv(out / "foretell_collapse.csv")
    scored = pd.read_csv(out / "foretell_collapse_scores.csv")
    sweep = pd.read_csv(out / "foretell_collapse_sweep.csv")
    common = (
        data_words(sorted(sweep["data"].unique())),
        ", ".join(sorted(sweep["model"].unique())),
        f"{int(by_setting['middle_radius'].notna().sum())} settings, {sweep['seed'].nunique()} seeds",
        f"n = {int(sweep['num_test'].max())} test images a run",
    )
    bars = {
        "": "brackets: 95 % bootstrap over settings, bars: from the last radius that trains to the first that does not"
    }
    figures = {"": draw_foretold(by_setting, scored, PANELS), "_scores": draw_scores(scored)}
    figures["_early"] = draw_early(pd.read_csv(out / "foretell_collapse_early.csv"))
    for suffix, figure in figures.items():
        words = bars.get(suffix, "bars: 95 % bootstrap over settings")
        save_figure(figure, out, f"foretell_collapse{suffix}", caption_line(*common, words))


def main(arguments: list[str] | None = None) -> None:
    """Run the study.

    Args:
        arguments: Of the command line; those of the process when None.
    """
    parser = common_options(__doc__)
    parser.add_argument("--only", help="names of settings, with commas")
    chosen = read_options(parser, arguments)
    wanted = [replace(item, config=chosen_config(item.config, chosen)) for item in settings(smoke=chosen.smoke)]
    if chosen.only:
        wanted = [item for item in wanted if item.name in chosen.only.split(",")]
    if not chosen.replot:
        compute(wanted, chosen.seeds, chosen.runs, chosen.out, workers=chosen.workers, device=chosen.device)
    if (chosen.out / "foretell_collapse_scores.csv").exists():
        plot(chosen.out)
    else:
        sys.stdout.write("fewer than four settings have collapsed: no scores yet, and nothing to draw\n")


if __name__ == "__main__":
    main()
