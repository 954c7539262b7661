"""How early is collapse foretold? Candidates from the first steps of the plain runs, against the radii found."""

from __future__ import annotations

import math

import pandas as pd

from analyses.collapse.predictors import escape, escape_lower, over_seeds
from analyses.collapse.scoring import score_table

CUTOFFS = (0, 40, 80, 120, 160, 200, 300)
"""Last steps whose records are used; 0 is before training."""

CANDIDATES = ("cor", "gsnr", "grad_norm", "escape_lower", "escape_radius")
"""The candidates that can be computed from ``foretell_collapse_steps.csv``."""

_OF_COR = ("cor", "gsnr", "grad_norm")


def first_steps(steps: pd.DataFrame, last: int) -> pd.DataFrame:
    """Return :data:`CANDIDATES` and ``cor_step`` by setting from the steps up to the last one.

    They are geometric means over seeds; NaN if a seed has no signal that early.
    """
    seen = steps[steps["step"] <= last].sort_values("step")
    found = {}
    for setting, runs in seen.groupby("setting", sort=False):
        found[setting] = over_seeds(pd.DataFrame([_candidates(run) for _, run in runs.groupby("seed")]))
    return pd.DataFrame.from_dict(found, orient="index")


def _candidates(run: pd.DataFrame) -> dict[str, float]:
    radius = escape(run) if len(run) > 1 else math.nan
    found = {"escape_lower": escape_lower(run, below_plateau=True), "escape_radius": radius}
    signal = run[run["cor"].notna()]
    if signal.empty:
        return found | dict.fromkeys((*_OF_COR, "cor_step"), math.nan)
    at = signal.loc[signal["cor"].idxmin()]
    return found | {name: float(at[name]) for name in _OF_COR} | {"cor_step": float(at["step"])}


def early_scores(by_setting: pd.DataFrame, steps: pd.DataFrame, targets: tuple[str, ...]) -> pd.DataFrame:
    """Score the candidates of the first steps: one row per last step, target (column of ``by_setting``), candidate."""
    frames = []
    for last in CUTOFFS:
        table = first_steps(steps, last).reindex(by_setting["setting"]).reset_index(drop=True)
        for target in targets:
            scored = score_table(table.assign(found=by_setting[target].to_numpy()), list(CANDIDATES), "found")
            frames.append(scored.assign(target=target, last_step=last))
    return pd.concat(frames, ignore_index=True)
