"""Tables of the toolkit's own results: what foretells the collapse, and what per-sample moments cost."""

from __future__ import annotations

import pandas as pd

from analyses.foretell_plots import NAMES, TARGET
from analyses.scoring import CONSTANT

__all__ = ["cost_table", "foretell_table"]

_NAMES = NAMES | {CONSTANT: "one radius for all settings (nothing measured)"}
_UNDEFINED = "–"


def foretell_table(scores: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Every candidate's rank correlation with the radius found, and its factor of error.

    Args:
        scores: The study's ``foretell_collapse_scores.csv``.

    Returns:
        A row per candidate, the best order first, and the caption.
    """
    shown = scores[(scores["scope"] == "all") & (scores["target"] == TARGET) & scores["candidate"].isin(_NAMES)]
    rows = shown.dropna(subset=["calibrated_factor"]).sort_values("spearman", ascending=False)
    table = pd.DataFrame({"candidate": [_plain(_NAMES[name]) for name in rows["candidate"]]})
    for heading, value, name, digits in (
        ("rank correlation", "spearman", "spearman", 2),
        ("factor of error", "calibrated_factor", "calibrated", 1),
    ):
        limits = rows[[value, f"{name}_low", f"{name}_high"]].itertuples(index=False)
        table[heading] = [
            _defined(f"{mid:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]", mid) for mid, low, high in limits
        ]
    table["constant"] = [f"{value:.2g}" for value in rows["calibration"]]
    table["settings"] = rows["num_settings"].to_numpy()
    caption = (
        "Foretold against found, embedded data: each candidate of a plain run against the radius from which on SAM "
        "training fails. Rank correlation over settings; typical factor of error after one constant for all settings, "
        "fitted on the others; in brackets the 95 % bootstrap interval over settings. Settings: where the candidate "
        "exists."
    )
    return table.set_index("candidate"), caption


def cost_table(stored: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Time and memory of per-sample gradients over a plain pass of the same batch.

    Args:
        stored: ``engine_cost.csv``.

    Returns:
        A row per model and method, and the caption.
    """
    rows = stored[stored["family"] != "plain"]
    times = rows[["time_ratio", "time_low", "time_high"]].itertuples(index=False)
    table = pd.DataFrame(
        {
            "model": [f"{model}, batch {batch}" for model, batch in rows[["model", "batch"]].itertuples(index=False)],
            "method": rows["method"],
            "gives": rows["gives"],
            "time / plain": [_defined(f"{mid:.2f} [{low:.2f}, {high:.2f}]", mid) for mid, low, high in times],
            "memory / plain": [_defined(f"{ratio:.2f}", ratio) for ratio in rows["memory_ratio"]],
            "parameters covered": [_defined(f"{100 * share:.0f} %", share) for share in rows["covers"]],
            "processor": rows["cpu"],
        }
    )
    caption = (
        "Cost of per-sample gradients and what is made of them (random inputs, no data set): median time over a plain "
        "forward and backward pass of the same batch, in brackets from lowest to highest repetition; peak memory of "
        "the process over that of the plain one."
    )
    return table.set_index("model"), caption


def _defined(text: str, value: float) -> str:
    return text if value == value else _UNDEFINED


def _plain(name: str) -> str:
    return name.replace(r"$|\mu| / L$", "gradient norm over curvature").replace(r" $|\mu|$", "")
