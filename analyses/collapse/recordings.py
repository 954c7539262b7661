"""GSNR and COR along the plain runs of the four families, in both readings of "layer-wise", shared by several figures.

The plain runs are those of ``foretell_collapse``, which recorded the reading by ``parameters``. For the reading by
``readout`` heads each run is repeated, bit for bit on one CPU, with another recorder. Table:
``figures/data/recordings.csv``, a row per reading, family, seed, step and layer (``total``: the whole model).
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import pandas as pd

from analyses.collapse.foretell_collapse import settings
from analyses.collapse.laboratory import Setting, run_folder, train_all
from analyses.collapse.record_again import Again, record_again
from analyses.support.families import family_of
from analyses.support.options import chosen_config
from analyses.support.tables import store
from gsnr_toolkit import Report, TrainConfig

TABLE, TOTAL = "recordings", "total"

READINGS = {"parameters": "a layer's own parameters", "readout": "a readout head on each layer"}
"""The two readings, in words."""

_COLUMNS = [
    "step", "group", "depth", "num_samples", "noise_floor", "gsnr", "gsnr_low", "gsnr_high", "status", "cor", "cor_low",
    "cor_high", "signal_fraction", "misspecification", "grad_norm",
]  # fmt: skip


def family_settings(chosen: argparse.Namespace) -> list[Setting]:
    """Return each family's setting with all parameters trained, on the chosen model and data."""
    wanted = ("-smoke",) if chosen.smoke else ("-full",)
    some = [setting for setting in settings(smoke=chosen.smoke) if setting.name.endswith(wanted)]
    return [replace(item, config=chosen_config(item.config, chosen)) for item in some]


def compute(chosen: argparse.Namespace) -> pd.DataFrame:
    """Train and record what is missing; write and return the table."""
    configs = [item.run_config(0.0, seed) for item in family_settings(chosen) for seed in range(chosen.seeds)]
    for config in train_all(configs, chosen.runs, workers=chosen.workers, device=chosen.device):
        print(f"{config.data} seed {config.seed}: recorded", flush=True)
    reports = {(config, "parameters"): Report.load(run_folder(chosen.runs, config) / "report") for config in configs}
    readout = Again("readouts", layerwise="readout")
    found = record_again(configs, readout, chosen.runs, workers=chosen.workers, device=chosen.device)
    reports |= {(config, "readout"): report for config, report in zip(configs, found, strict=True)}
    table = pd.concat([_rows(report, *key) for key, report in reports.items()], ignore_index=True)
    store(chosen.out, TABLE, {"": table}, configs=[config.to_dict() for config in configs])
    return table


def _rows(report: Report, config: TrainConfig, reading: str) -> pd.DataFrame:
    totals = report.totals.assign(group=TOTAL, depth=-1)
    rows = pd.concat([frame.reindex(columns=_COLUMNS) for frame in (report.layers, totals)], ignore_index=True)
    words = report.settings.get("caption") or config.data
    return rows.assign(reading=reading, family=family_of(config.data), seed=config.seed, caption=words)


def weakest_step(rows: pd.DataFrame) -> int:
    """Return the step at which one run's COR of the whole model is smallest; the last step if it never has a COR."""
    totals = rows[(rows["group"] == TOTAL) & (rows["status"] == "ok") & rows["cor"].notna()]
    return int(rows["step"].max() if totals.empty else totals.loc[totals["cor"].idxmin(), "step"])
