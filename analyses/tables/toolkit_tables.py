"""Tables of the toolkit's own results: predictors of collapse, and the cost of per-sample moments."""

from __future__ import annotations

import pandas as pd

from analyses.collapse.foretell_plots import FIRST, NAMES, TARGET
from analyses.collapse.scoring import CONSTANT

_NAMES = NAMES | {CONSTANT: "one radius for all settings (nothing measured)"}
_UNDEFINED = "–"


def foretell_table(scores: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return every candidate's rank correlation with the radius found and its factor of error, and the caption."""
    known = scores[(scores["scope"] == "all") & scores["candidate"].isin(_NAMES)].dropna(subset=["calibrated_factor"])
    rows = known[known["target"] == TARGET].sort_values("spearman", ascending=False).set_index("candidate")
    first = known[known["target"] == FIRST].set_index("candidate").reindex(rows.index)
    table = pd.DataFrame({"candidate": [_plain(_NAMES[name]) for name in rows.index]})
    for of, suffix in ((rows, ""), (first, ", first failing")):
        table["rank correlation" + suffix] = _cells(of, "spearman", "spearman", 2)
        table["factor of error" + suffix] = _cells(of, "calibrated_factor", "calibrated", 1)
        if not suffix:
            table["constant"] = [f"{value:.2g}" for value in rows["calibration"]]
            table["settings"] = rows["num_settings"].to_numpy()
    caption = (
        "Foretold against found, embedded data: each candidate of a plain run against the radius from which on SAM "
        "training fails, taken as the middle of each seed's bracket (last radius that trains, first that does not) "
        "and, in the last two columns, as the first radius of the grid that fails. Rank correlation over settings; "
        "typical factor of error after one constant for all settings, fitted on the others; in brackets the 95 % "
        "bootstrap interval over settings. Settings: where the candidate exists."
    )
    return table.set_index("candidate"), caption


def early_table(scores: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return rank correlations of the candidates, a column per last step seen of the plain runs, and the caption."""
    rows = scores[(scores["target"] == TARGET) & (scores["candidate"] != CONSTANT)]
    names = list(dict.fromkeys(rows["candidate"]))
    table = pd.DataFrame({"candidate": [_plain(_NAMES[name]) for name in names]})
    for last, part in rows.groupby("last_step"):
        cells = dict(zip(part["candidate"], _cells(part, "spearman", "spearman", 2), strict=True))
        counts = dict(zip(part["candidate"], part["num_settings"], strict=True))
        heading = f"to step {last}" if last else "before training"
        table[heading] = [f"{cells[name]}, n = {counts[name]}" for name in names]
    caption = (
        "How early, embedded data: rank correlation with the radius from which on SAM training fails (the bracket's "
        "middle) of what was recorded up to a step of plain runs of 300; in brackets the 95 % bootstrap interval over "
        "settings; n: settings in which both seeds have a signal so early."
    )
    return table.set_index("candidate"), caption


def _cells(rows: pd.DataFrame, value: str, limits: str, digits: int) -> list[str]:
    found = rows[[value, f"{limits}_low", f"{limits}_high"]].itertuples(index=False)
    return [_defined(f"{mid:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]", mid) for mid, low, high in found]


def cost_table(stored: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return time and memory of per-sample gradients relative to a plain pass of the same batch, and the caption."""
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
    return (
        name.replace(r"$|\mu| / L$", "gradient norm over curvature")
        .replace(r"$|\mu|$ over", "gradient norm over")
        .replace(r" $|\mu|$", "")
    )
