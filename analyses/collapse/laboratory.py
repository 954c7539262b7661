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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from gsnr_toolkit import TrainConfig
from gsnr_toolkit.data.base import DataError
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.models.registry import MODELS
from gsnr_toolkit.training.run import read_result, run_training
from gsnr_toolkit.training.setup import Opened

DATA = Path(__file__).parents[2] / "figures" / "data"
"""Where tables go unless told otherwise."""

RUNS = Path(__file__).parents[2] / "runs" / "laboratory"
"""Where runs are kept unless told otherwise."""

BASE = TrainConfig(
    model="clip-lab", steps=300, batch_size=32, lr=1e-3, train_samples=3000, eval_samples=1000, stop_dead=200
)
"""What every setting has in common unless it says otherwise."""

STRENGTHS = {"f2f": 2.0, "df": 2.0, "nt": 2.0, "fs": 4.0}
"""Forgery strengths at which plain runs of the laboratory train."""

RATES = {"head": 10.0, "norms": 30.0}
"""Factors on the learning rate where few parameters are trained: norms at 3 times :data:`BASE`'s hardly train."""

RECORD_EVERY, RECORD_SAMPLES = 40, 256

GRID = (0.01, 0.02, 0.035, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.56, 0.8, 1.1, 1.6, 3.2)
"""Radii, a factor of about 1.4 apart where collapses lie: no bracket can be closer than the grid."""

START = 0.07
"""The radius tried first."""

ENOUGH = 2
"""Radii on end at which all seeds have collapsed, before no larger one is tried."""

HELD_BYTES = 1 << 30
"""Images that a process keeps from one run to the next."""

REAL_NAMES = {"demo-cdf": "celebdf-v2"}
"""Real data sets by the embedded ones that stand for them, where the names differ by more than ``demo-``."""

CHANCE = 0.55
"""A test AUC whose upper limit is below this is chance (the definition of the empirical collapse radius)."""


def family_config(family: str) -> TrainConfig:
    """The laboratory's config of one embedded family.

    Args:
        family: ``"f2f"``, ``"df"``, ``"nt"`` or ``"fs"``.

    Returns:
        :data:`BASE` on that family, at a strength at which it trains.
    """
    return replace(BASE, data=f"demo-{family}", strength=STRENGTHS[family])


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
    """Train what is not trained yet, in processes of one thread each; a single worker is this process.

    Yields:
        Each config once its run is finished.
    """
    missing = [config for config in configs if read_result(run_folder(runs, config), config) is None]
    yield from (config for config in configs if config not in missing)
    if not missing:
        return
    if workers == 1:
        with _single_thread():
            for config in missing:
                _train(config, runs, device)
                yield config
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(missing)), mp_context=context, initializer=_one_thread) as pool:
        waiting = {pool.submit(_train, config, runs, device): config for config in missing}
        for done in as_completed(waiting):
            done.result()
            yield waiting[done]


@contextmanager
def _single_thread() -> Iterator[None]:
    """Runs are equal bit for bit only with the same number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def spread(work: Callable[..., Any], *items: Iterable[Any], workers: int) -> list[Any]:
    """Call a function on items in processes of one thread each; a single worker is this process.

    Args:
        work: What to call; it must be picklable.
        *items: As for ``map``.
        workers: Processes at a time.

    Returns:
        What the calls gave, in order.

    >>> spread(max, [1, 5], [3, 4], workers=1)
    [3, 5]
    """
    if workers == 1:
        with _single_thread():
            return list(map(work, *items))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        return list(pool.map(work, *items))


_opened: Opened = {}


def opened() -> Opened:
    """The data sets that runs of this process have opened, images drawn once for all; let go where they grow large.

    Returns:
        What :func:`gsnr_toolkit.training.run.run_training` and :func:`gsnr_toolkit.training.setup.open_data` take.
    """
    if sum(len(data) * 3 * data.image_size**2 for data in _opened.values()) > HELD_BYTES:
        _opened.clear()
    return _opened


def _train(config: TrainConfig, runs: Path, device: str | None) -> None:
    run_training(config, run_folder(runs, config), device=device, opened=opened())


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
        0 for the plain runs; None once it is known where the setting collapses, or where a plain run does not train.
    """
    found = {rho: [_row(setting.run_config(rho, seed), runs) for seed in range(seeds)] for rho in (0.0, *setting.radii)}
    states = {rho: [collapsed(row) for row in rows if row is not None] for rho, rows in found.items()}
    if len(states[0.0]) < seeds:
        return 0.0
    if any(states[0.0]):
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
    parser.add_argument("--replot", action="store_true", help="draw from the stored tables, compute nothing")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--device", help="where to train; a GPU if there is one by default")
    parser.add_argument("--model", help="another model than the script's own, such as clip-vit-l14")
    parser.add_argument("--data-root", type=Path, help="folder of the real data sets, in place of the embedded ones")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where runs are kept")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the tables; figures go beside it")
    return parser


def chosen_config(config: TrainConfig, chosen: argparse.Namespace) -> TrainConfig:
    """A config on the model and the data that the command line asks for.

    Real data sets come in place of the embedded ones of the same name (``demo-nt``: ``nt``), at their own strength. The
    learning rate changes by as much as that of a probing run does from model to model.

    Args:
        config: On embedded data.
        chosen: With ``model`` and ``data_root``.

    Returns:
        The config itself where neither is given.
    """
    model = chosen.model or config.model
    rates = [MODELS.rows[name].probe_lr if name in MODELS.rows else None for name in (model, config.model)]
    factor = rates[0] / rates[1] if rates[0] and rates[1] else 1.0
    found = replace(config, model=model, lr=config.lr * factor)
    if chosen.data_root is None:
        return found
    others = tuple(real_name(name) for name in config.eval_data)
    root = str(chosen.data_root)
    return replace(found, data=real_name(config.data), eval_data=others, data_root=root, strength=None)


def real_name(name: str) -> str:
    """The real data set that an embedded one stands for.

    Args:
        name: Such as ``"demo-nt"``.

    Returns:
        Such as ``"nt"``.
    """
    return REAL_NAMES.get(name, name.removeprefix("demo-"))


def read_options(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line, and see that the data are there before anything is trained on them.

    Args:
        parser: With the common options.
        arguments: Of the command line; those of the process when None.

    Returns:
        The options.
    """
    chosen = parser.parse_args(arguments)
    if chosen.data_root is not None and not chosen.replot:
        try:
            for name in ("df", "fs", "f2f", "nt"):
                open_dataset(name, split="val", root=chosen.data_root, size=8)
        except DataError as error:
            parser.error(f"--data-root: {error}")
    return chosen


def run_by_family(
    compute: Callable[..., None],
    description: str | None,
    arguments: list[str] | None,
    plot: Callable[[Path], None] | None = None,
) -> None:
    """Read the command line of a script that works family by family, and run it.

    Args:
        compute: Called with families, seeds, runs and out, and by name with smoke, workers, device and ``fitted``, the
            function that puts a config on the chosen model and data.
        description: The script's docstring.
        arguments: Of the command line; those of the process when None.
        plot: Draws from the tables in the folder it is given.
    """
    parser = common_options(description)
    parser.add_argument("--families", default="f2f,nt", help="families, with commas")
    chosen = read_options(parser, arguments)
    if not chosen.replot:
        work = {"smoke": chosen.smoke, "workers": chosen.workers, "device": chosen.device}
        fitted = partial(chosen_config, chosen=chosen)
        compute(chosen.families.split(","), chosen.seeds, chosen.runs, chosen.out, fitted=fitted, **work)
    if plot is not None:
        plot(chosen.out)
