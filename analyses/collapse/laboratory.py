"""The collapse laboratory: settings small enough to train by the hundred, and their runs, stored and shared.

A *setting* is a :class:`gsnr_toolkit.TrainConfig` without radius and seed. For each setting and seed the plain run
comes first, with GSNR and COR recorded along it. The radii of the setting's grid follow from the middle on: downwards
until all seeds train, upwards until all seeds have collapsed at two radii in a row. Each run has a folder named by the
hash of its config: a script that is started again resumes, and scripts share their runs.

The model is the embedded CLIP in a shorter version (``clip-lab``: 6 blocks, 32 pixels). The strengths of the forgeries
were tuned until plain runs of 300 steps train: with 32 pixels and strength 1 none does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.support.processes import as_finished
from gsnr_toolkit import TrainConfig
from gsnr_toolkit.training.run import read_result, run_training
from gsnr_toolkit.training.setup import Opened

BASE = TrainConfig(
    model="clip-lab", steps=300, batch_size=32, lr=1e-3, train_samples=3000, eval_samples=1000, stop_dead=200
)
"""Values that every setting shares unless it overrides them."""

STRENGTHS = {"f2f": 2.0, "df": 2.0, "nt": 2.0, "fs": 4.0}
"""Forgery strengths at which plain runs of the laboratory train."""

RATES = {"head": 10.0, "norms": 30.0}
"""Factors on the learning rate when few parameters are trained: norms hardly train at 3 times :data:`BASE`'s."""

RECORD_EVERY, RECORD_SAMPLES = 40, 256

GRID = (0.01, 0.02, 0.035, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.56, 0.8, 1.1, 1.6, 3.2)
"""Radii, a factor of about 1.4 apart where collapses lie: no bracket can be narrower than the grid."""

START = 0.07
"""First radius to try."""

ENOUGH = 2
"""Number of successive radii at which all seeds collapse before the search upwards stops."""

HELD_BYTES = 1 << 30
"""Upper limit on the images that a process keeps from one run to the next."""

CHANCE = 0.55
"""A run is at chance if the upper limit of its test AUC is below this (docs/theory.md, empirical collapse radius)."""

SMOKE: dict[str, Any] = {"steps": 24, "train_samples": 64, "eval_samples": 64, "batch_size": 8}
"""Changes to a config for ``--smoke``."""


def family_config(family: str) -> TrainConfig:
    """Return :data:`BASE` on one embedded family such as ``"df"``, at a forgery strength at which it trains."""
    return replace(BASE, data=f"demo-{family}", strength=STRENGTHS[family])


@dataclass(frozen=True)
class Setting:
    """One setting of the laboratory.

    Attributes:
        name: Short and unique.
        config: Everything but radius and seed.
        radii: Radii to try, increasing, without 0.
        start: First radius to try; if it is not in ``radii``, the smallest is tried first.
    """

    name: str
    config: TrainConfig
    radii: tuple[float, ...] = GRID
    start: float = START

    def run_config(self, rho: float, seed: int) -> TrainConfig:
        """Return the config of one run; plain runs are recorded."""
        if rho:
            return replace(self.config, rho=rho, seed=seed)
        samples = max(RECORD_SAMPLES, 4 * self.config.batch_size)  # COR's interval needs four mini-batches
        return replace(self.config, rho=0.0, seed=seed, stop_dead=0, record_every=RECORD_EVERY, record_samples=samples)


def run_folder(runs: Path, config: TrainConfig) -> Path:
    """Return the folder of a run, named by the hash of its config."""
    return runs / "runs" / config.key


def train_all(configs: Sequence[TrainConfig], runs: Path, *, workers: int, device: str | None) -> Iterator[TrainConfig]:
    """Train what is not trained yet; yield each config once its run is finished."""
    missing = [config for config in configs if _row(config, runs) is None]
    yield from (config for config in configs if config not in missing)
    for index, _ in as_finished(partial(_train, runs=runs, device=device), missing, workers=workers):
        yield missing[index]


_opened: Opened = {}


def opened() -> Opened:
    """Return the data sets that this process has opened, emptied when they exceed :data:`HELD_BYTES`."""
    if sum(len(data) * 3 * data.image_size**2 for data in _opened.values()) > HELD_BYTES:
        _opened.clear()
    return _opened


def _train(config: TrainConfig, runs: Path, device: str | None) -> None:
    run_training(config, run_folder(runs, config), device=device, opened=opened())


def collapsed(row: dict[str, Any]) -> bool:
    """Return whether a run's AUC (upper limit) is at chance, or its loss stayed at ln 2 or is not finite."""
    return row["status"] != "ok" or not row["test_auc_high"] >= CHANCE


def explore(
    settings: Sequence[Setting], seeds: int, runs: Path, *, workers: int, device: str | None = None
) -> Iterator[str]:
    """Train all settings: the plain runs, then the radii that show where each collapses; yield a line about each run.

    The first radius is the setting's ``start``. Smaller radii are tried until all seeds train; larger ones until all
    seeds have collapsed at two radii in a row.
    """
    while True:
        names = {}
        for setting in settings:
            rho = next_radius(setting, seeds, runs)
            if rho is not None:
                names.update({setting.run_config(rho, seed): setting.name for seed in range(seeds)})
        if not names:
            return
        for config in train_all(list(names), runs, workers=workers, device=device):
            row = _row(config, runs)
            assert row is not None
            yield (
                f"{names[config]:<24} rho {config.rho:<6g} seed {config.seed}  AUC {row['test_auc']:.3f}  "
                f"loss {row['train_loss']:.3f}  {row['status']}  {row['seconds']:.0f} s"
            )


def next_radius(setting: Setting, seeds: int, runs: Path) -> float | None:
    """Choose the next radius to try: 0 for the plain runs; None once collapse is located, or if a plain run fails."""
    found = {rho: [_row(setting.run_config(rho, seed), runs) for seed in range(seeds)] for rho in (0.0, *setting.radii)}
    states = {rho: [collapsed(row) for row in rows if row is not None] for rho, rows in found.items()}
    if len(states[0.0]) < seeds:
        return 0.0
    if any(states[0.0]):
        return None
    radii = setting.radii
    start = radii.index(setting.start) if setting.start in radii else 0
    # Downwards: the nearest radius that is not finished, or at which all seeds train.
    down = next((i for i in range(start, -1, -1) if len(states[radii[i]]) < seeds or not any(states[radii[i]])), -1)
    if down >= 0 and len(states[radii[down]]) < seeds:
        return radii[down]
    failing = 0
    for rho in radii[start:]:
        if len(states[rho]) < seeds:
            return rho
        failing = failing + 1 if all(states[rho]) else 0
        if failing == ENOUGH:
            return None
    return None


def _row(config: TrainConfig, runs: Path) -> dict[str, Any] | None:
    return read_result(run_folder(runs, config), config)


def table(settings: Sequence[Setting], seeds: int, runs: Path) -> pd.DataFrame:
    """Return a tidy table of all finished runs: the setting's name, the whole config, and the results."""
    rows = []
    for setting in settings:
        for rho in (0.0, *setting.radii):
            for seed in range(seeds):
                config = setting.run_config(rho, seed)
                found = _row(config, runs)
                if found is not None:
                    values = {**config.to_dict(), "eval_data": ",".join(config.eval_data)}
                    rows.append({"setting": setting.name, **values, **found})
    return pd.DataFrame(rows)
