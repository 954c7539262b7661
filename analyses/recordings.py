"""GSNR and COR along the plain runs of the four families, in both readings of "layer-wise"; several figures share them.

The plain runs are those of ``foretell_collapse``. The reading by ``parameters`` was recorded in them; for the reading
by ``readout`` heads the same run is made again, bit for bit on one CPU, with another recorder. Table:
``figures/data/recordings.csv``, a row per reading, family, seed, step and layer (``total``: the whole model).
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from analyses.figure import family_of, store
from analyses.foretell_collapse import settings
from analyses.laboratory import Setting, chosen_config, run_folder, train_all
from gsnr_toolkit import Report, TrainConfig
from gsnr_toolkit.data.loaders import probe_loader
from gsnr_toolkit.models.registry import build_model
from gsnr_toolkit.prepare import find_device
from gsnr_toolkit.preserve import preserved_rng
from gsnr_toolkit.training.loop import Callback, train
from gsnr_toolkit.training.recorder import Recorder
from gsnr_toolkit.training.setup import learning_rate, make_optimizer, open_data
from gsnr_toolkit.training.tuning import set_tuning

__all__ = ["READINGS", "TABLE", "TOTAL", "compute", "family_settings", "record_readout", "weakest_step"]

TABLE, TOTAL = "recordings", "total"

READINGS = {"parameters": "a layer's own parameters", "readout": "a readout head on each layer"}
"""The two readings, in words."""

_COLUMNS = [
    "step", "group", "depth", "num_samples", "noise_floor", "gsnr", "gsnr_low", "gsnr_high", "status", "cor", "cor_low",
    "cor_high", "signal_fraction", "misspecification", "grad_norm",
]  # fmt: skip


def family_settings(chosen: argparse.Namespace) -> list[Setting]:
    """One setting of the study for each family: all parameters trained.

    Args:
        chosen: With ``smoke``, ``model`` and ``data_root``.

    Returns:
        The settings, on the chosen model and data.
    """
    wanted = ("-smoke",) if chosen.smoke else ("-full",)
    some = [setting for setting in settings(smoke=chosen.smoke) if setting.name.endswith(wanted)]
    return [replace(item, config=chosen_config(item.config, chosen)) for item in some]


class _Listener(Callback):
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def before_step(self, step: int) -> None:
        self.recorder(step)


def record_readout(config: TrainConfig, folder: Path, device: str | None = None) -> Report:
    """Make a plain run again with the readout reading recorded along it, unless the folder holds that already.

    Args:
        config: Of a recorded plain run.
        folder: Of the report.
        device: Where to train.

    Returns:
        The report.
    """
    if (folder / "report.json").exists():
        return Report.load(folder)
    place = find_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with preserved_rng(seed=config.seed):
        model = build_model(config.model, weights=config.weights, seed=config.seed).to(place)
        set_tuning(model, config.tuning)
        data = open_data(config, model)
        loader = probe_loader(data.val, config.record_samples, config.batch_size)
        recorder = Recorder(
            model, loader, every=config.record_every, device=place, batch_size=config.batch_size, layerwise="readout",
            detail="group",
            extra_settings={"config": config.to_dict(), "model": config.model, "data": config.data,
                            "caption": data.val.caption},
        )  # fmt: skip
        optimizer = make_optimizer(config, model, loader)
        model.train()
        done = train(
            model, optimizer, data.batches(start=0), steps=config.steps, learning_rate=partial(learning_rate, config),
            device=place, callbacks=[_Listener(recorder)],
        )  # fmt: skip
        if recorder.steps[-1] != done:
            recorder.measure(done)
    recorder.report.save(folder)
    return recorder.report


def compute(chosen: argparse.Namespace) -> pd.DataFrame:
    """Make what is missing, and write the table.

    Args:
        chosen: Options of a figure's script.

    Returns:
        The table.
    """
    configs = [item.run_config(0.0, seed) for item in family_settings(chosen) for seed in range(chosen.seeds)]
    for config in train_all(configs, chosen.runs, workers=chosen.workers, device=chosen.device):
        sys.stdout.write(f"{config.data} seed {config.seed}: recorded\n")
    reports = {(config, "parameters"): Report.load(run_folder(chosen.runs, config) / "report") for config in configs}
    folders = [chosen.runs / "readouts" / config.key for config in configs]
    if chosen.workers > 1:
        with ProcessPoolExecutor(chosen.workers, get_context("spawn"), initializer=_one_thread) as pool:
            found = list(pool.map(record_readout, configs, folders, [chosen.device] * len(configs)))
    else:
        found = [record_readout(*pair, chosen.device) for pair in zip(configs, folders, strict=True)]
    reports |= {(config, "readout"): report for config, report in zip(configs, found, strict=True)}
    table = pd.concat([_rows(report, *key) for key, report in reports.items()], ignore_index=True)
    store(chosen.out, TABLE, {"": table}, configs=[config.to_dict() for config in configs])
    return table


def _one_thread() -> None:
    torch.set_num_threads(1)


def _rows(report: Report, config: TrainConfig, reading: str) -> pd.DataFrame:
    totals = report.totals.assign(group=TOTAL, depth=-1)
    rows = pd.concat([frame.reindex(columns=_COLUMNS) for frame in (report.layers, totals)], ignore_index=True)
    words = report.settings.get("caption") or config.data
    return rows.assign(reading=reading, family=family_of(config.data), seed=config.seed, caption=words)


def weakest_step(rows: pd.DataFrame) -> int:
    """The step at which a run's whole COR is smallest; the last one where it never has one.

    Args:
        rows: Of one reading, family and seed.

    Returns:
        The step.
    """
    totals = rows[(rows["group"] == TOTAL) & (rows["status"] == "ok") & rows["cor"].notna()]
    return int(rows["step"].max() if totals.empty else totals.loc[totals["cor"].idxmin(), "step"])
