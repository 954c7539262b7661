"""Tables of our own results, from the stored tables of the studies; each caption states data, n and seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analyses.support.tables import over_seeds
from analyses.tables.toolkit_tables import cost_table, early_table, foretell_table

_CLEAN = "none"
_WORDS = "Embedded data, {train}; n = {n} images of each test set, each a video of its own"
_SEEDS = "mean of {seeds} seeds, in brackets from the lowest to the highest limit of their 95 % intervals over images"


def own_tables(folder: Path) -> dict[str, tuple[pd.DataFrame, str]]:
    """Make every table whose study has been run: name to the table, indexed by its first column, and its caption."""
    found: dict[str, tuple[pd.DataFrame, str]] = {}
    for study, makers in _MAKERS.items():
        path = folder / f"{study}.csv"
        if path.exists():
            stored = pd.read_csv(path)
            found |= {name: make(stored) for name, make in makers.items()}
    return found


def _caption(stored: pd.DataFrame, what: str) -> str:
    train = ", ".join(f"trained on {words}" for words in stored["trained_on"].unique())
    n = int((stored["real"] + stored["fake"]).max())
    about = _WORDS.format(train=train, n=n), _SEEDS.format(seeds=stored["seed"].nunique())
    return f"{what}. {'; '.join(about)}."


def _cells(stored: pd.DataFrame, columns: str) -> pd.DataFrame:
    """Percentages with their range: a row per method, a column per value of a column."""
    renamed = stored.rename(columns={"low": "value_low", "high": "value_high"})
    means = over_seeds(renamed, ["method", columns], "value")
    text = [
        f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        for value, low, high in means[["value", "value_low", "value_high"]].itertuples(index=False)
    ]
    wide = means.assign(text=text).pivot(index="method", columns=columns, values="text")
    return wide.reindex(index=means["method"].unique(), columns=means[columns].unique())


def _measure(stored: pd.DataFrame, name: str) -> pd.DataFrame:
    return stored[(stored["measure"] == name) & (stored["level"] == "video")]


def _cross_domain(stored: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    clean = _measure(stored, "auc").query("perturbation == @_CLEAN")
    return _cells(clean, "data"), _caption(clean, "AUC in % across data sets")


def _universal(stored: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    whole = stored[stored["data"].isin(["demo-gan", "demo-diff"]) & (stored["perturbation"] == _CLEAN)]
    parts = [
        _measure(whole, name).assign(column=lambda rows, n=name: rows["data"] + ", " + n) for name in ("accuracy", "ap")
    ]
    both = pd.concat(parts, ignore_index=True)
    return _cells(both, "column"), _caption(
        both, "Images generated whole: accuracy at one half, and average precision, in %"
    )


def _robustness(stored: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    own = _measure(stored, "auc")
    own = own[own["data"].isin(own.loc[own["perturbation"] != _CLEAN, "data"])]
    return _cells(own, "perturbation").T, _caption(
        own,
        f"AUC in % on worse images of the test split of {', '.join(own['data'].unique())} (JPEG quality, noise in grey "
        "levels, resizing to a share of the size, blur in pixels)",
    )


def _ablation(stored: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    rows = pd.DataFrame({"trained on": "demo-" + stored["trained_on"], "variant": stored["variant"]})
    for name, heading in (("own", "own family"), ("cross", "other families")):
        rows[heading] = [f"{100 * auc:.1f}" for auc in stored[f"{name}_auc"]]
        changes = stored[[f"{name}_change", f"{name}_margin"]].itertuples(index=False)
        rows[f"change, {heading}"] = [f"{100 * change:+.1f} ± {100 * margin:.1f}" for change, margin in changes]
    rows["encoder passes"] = [f"{cost:.2f}" for cost in stored["cost"]]
    caption = (
        f"Ablation: test AUC in %, embedded data, {int(stored['num_seeds'].max())} seeds; changes against the first "
        "row with the 95 % interval over seeds, paired; cost at inference in passes of the plain encoder."
    )
    return rows.set_index("trained on"), caption


_Maker = Callable[[pd.DataFrame], tuple[pd.DataFrame, str]]

_MAKERS: dict[str, dict[str, _Maker]] = {
    "corit_evaluation": {"cross_domain": _cross_domain, "universal": _universal, "robustness": _robustness},
    "corit_ablation_parts": {"ablation": _ablation},
    "foretell_collapse_scores": {"foretell": foretell_table},
    "foretell_collapse_early": {"foretell_early": early_table},
    "engine_cost": {"cost": cost_table},
}
"""Stored table to the tables made from it."""
