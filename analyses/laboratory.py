"""The collapse laboratory: settings small enough to be trained by the hundred, and their runs, kept and shared.

A *setting* is everything of a :class:`gsnr_toolkit.TrainConfig` but radius and seed. For each setting and seed the
plain run comes first, with GSNR and COR recorded along it; then radii of the setting's grid are tried from the middle
on: down until all seeds train, up until all have collapsed at two radii on end. Runs are kept in a folder by the hash
of their config: a script that is run again goes on where it was, and several scripts share them.

The embedded CLIP cut short (``clip-lab``: 6 blocks, 32 pixels) is the model. Strengths of the forgeries were tuned
until plain runs of 300 steps train: at 32 pixels and strength 1 none does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from gsnr_toolkit import TrainConfig
from gsnr_toolkit.training.run import read_result, run_training

DATA = Path(__file__).parents[1] / "figures" / "data"
"""Where tables go unless told otherwise."""

RUNS = Path(__file__).parents[1] / "runs" / "laboratory"
"""Where runs are kept unless told otherwise."""

BASE = TrainConfig(
    model="clip-lab", steps=300, batch_size=32, lr=1e-3, train_samples=3000, eval_samples=1000, stop_dead=200
)
"""What every setting has in common unless it says otherwise."""

RECORD_EVERY, RECORD_SAMPLES = 40, 256

GRID = (0.01, 0.02, 0.035, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.56, 0.8, 1.1, 1.6, 3.2)
"""Radii, a factor of about 1.4 apart where collapses lie: no bracket can be closer than the grid."""

START = 0.07
"""The radius tried first."""

ENOUGH = 2
"""Radii on end at which all seeds have collapsed, before no larger one is tried."""

CHANCE = 0.55
"""A test AUC whose upper limit is below this is chance (the definition of the empirical collapse radius)."""


@dataclass(frozen=True)
class Setting:
    """One setting of the laboratory.

    Attributes:
        name: Short and unique.
        config: Everything but radius and seed.
        radii: Radii to try, increasing, without 0.
        start: The one to try first; the smallest where it is none of them.
    """

    name: str
    config: TrainConfig
    radii: tuple[float, ...] = GRID
    start: float = START

    def run_config(self, rho: float, seed: int) -> TrainConfig:
        """Config of one run; plain runs are recorded.

        Returns:
            The setting's config with this radius and seed.
        """
        if rho:
            return replace(self.config, rho=rho, seed=seed)
        samples = max(RECORD_SAMPLES, 4 * self.config.batch_size)  # COR's interval needs four mini-batches
        return replace(self.config, rho=0.0, seed=seed, stop_dead=0, record_every=RECORD_EVERY, record_samples=samples)


def run_folder(runs: Path, config: TrainConfig) -> Path:
    """Where a run is kept.

    Returns:
        A folder named by the hash of the config.
    """
    return runs / "runs" / config.key


def train_all(configs: Sequence[TrainConfig], runs: Path, *, workers: int, device: str | None) -> Iterator[TrainConfig]:
    """Train what is not trained yet, in processes of one thread each.

    Yields:
        Each config once its run is finished.
    """
    missing = [config for config in configs if read_result(run_folder(runs, config), config) is None]
    yield from (config for config in configs if config not in missing)
    if not missing:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(missing)), mp_context=context, initializer=_one_thread) as pool:
        waiting = {pool.submit(_train, config, runs, device): config for config in missing}
        for done in as_completed(waiting):
            done.result()
            yield waiting[done]


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _train(config: TrainConfig, runs: Path, device: str | None) -> None:
    run_training(config, run_folder(runs, config), device=device)


def collapsed(row: dict[str, Any]) -> bool:
    """Whether one run ended at chance.

    Returns:
        True where the test AUC's upper limit is below 0.55, or the training loss stayed at ln 2, or is not finite.
    """
    return row["status"] != "ok" or not row["test_auc_high"] >= CHANCE


def explore(
    settings: Sequence[Setting], seeds: int, runs: Path, *, workers: int, device: str | None = None
) -> Iterator[str]:
    """Train all settings: plain runs, then the radii that tell where each one collapses.

    The first radius is the setting's ``start``. Below it, radii are tried until all seeds train; above, until all seeds
    have collapsed at two radii on end.

    Args:
        settings: What to train.
        seeds: Number of seeds.
        runs: Where runs are kept.
        workers: Processes at a time.
        device: Where to train.

    Yields:
        A line about each finished run.
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
    """The radius of a setting that is to be tried next.

    Args:
        setting: The setting.
        seeds: Number of seeds.
        runs: Where runs are kept.

    Returns:
        0 for the plain runs; None once it is known where the setting collapses, or its plain runs do not train.
    """
    found = {rho: [_row(setting.run_config(rho, seed), runs) for seed in range(seeds)] for rho in (0.0, *setting.radii)}
    states = {rho: [collapsed(row) for row in rows if row is not None] for rho, rows in found.items()}
    if len(states[0.0]) < seeds:
        return 0.0
    if all(states[0.0]):
        return None
    radii = setting.radii
    start = radii.index(setting.start) if setting.start in radii else 0
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
    """Tidy table of all finished runs.

    Returns:
        One row per run: the setting's name, the whole config, and the results.
    """
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


def common_options(description: str | None) -> argparse.ArgumentParser:
    """The options that all scripts of the laboratory have.

    Args:
        description: The script's docstring.

    Returns:
        A parser to add others to.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few short runs, to see that everything works")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--device", help="where to train; a GPU if there is one by default")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where runs are kept")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the tables")
    return parser


def run_by_family(compute: Callable[..., None], description: str | None, arguments: list[str] | None) -> None:
    """Read the command line of a script that works family by family, and run it.

    Args:
        compute: Called with families, seeds, runs and out, and by name with smoke, workers and device.
        description: The script's docstring.
        arguments: Of the command line; those of the process when None.
    """
    parser = common_options(description)
    parser.add_argument("--families", default="df,nt", help="families, with commas")
    chosen = parser.parse_args(arguments)
    work = {"smoke": chosen.smoke, "workers": chosen.workers, "device": chosen.device}
    compute(chosen.families.split(","), chosen.seeds, chosen.runs, chosen.out, **work)
