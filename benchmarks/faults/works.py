"""The runs that are disturbed: a probe, a training, a sweep and a detector's training, each small.

As a command, ``python -m benchmarks.faults.works WORK FOLDER`` does one of them and ends like the package's
own commands.
"""

from __future__ import annotations

import argparse
import errno
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gsnr_toolkit.commands.common import run_command

_TRAIN: dict[str, Any] = {"model": "clip-lab", "data": "demo-df", "train_samples": 48, "eval_samples": 24}
_TRAIN |= {"batch_size": 8, "steps": 10, "rho": 0.01, "eval_every": 4, "record_every": 5, "record_samples": 32}


def _probe(folder: Path, seed: int) -> None:
    from gsnr_toolkit.commands.probe import app

    options = "--model clip-lab --data demo-df --samples 32 --batch-size 8 --steps 4 --measurements 3 --radii 0.01,0.05"
    _call(app, [*f"{options} --quiet --seed {seed} --out".split(), str(folder)])


def _sweep(folder: Path, seed: int) -> None:
    from gsnr_toolkit.commands.sweep import app

    settings = {**_TRAIN, "rho": "0,0.01", "record_every": 0, "seed": seed}
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    _call(app, [*options, "--workers", "1", "--device", "cpu", "--quiet", "--out", str(folder)])


def _training(folder: Path, seed: int) -> None:
    from gsnr_toolkit.training.config import TrainConfig
    from gsnr_toolkit.training.run import run_training

    run_training(TrainConfig(**_TRAIN, seed=seed), folder, device="cpu", checkpoint_seconds=0)


def _detector(folder: Path, seed: int) -> None:
    from corit.training.config import DetectorTraining
    from corit.training.train import train_detector

    config = DetectorTraining(
        encoder="clip-lab", data="demo-df", train_samples=48, val_samples=24, eval_samples=24, batch_size=8, steps=30,
        rho=0.02, eval_every=10, views=1, seed=seed,
    )  # fmt: skip
    train_detector(config, folder, device="cpu", draws=20, checkpoint_seconds=0)


WORKS: dict[str, Callable[[Path, int], None]] = {
    "gsnr-probe": _probe,
    "run_training": _training,
    "gsnr-sweep": _sweep,
    "corit train": _detector,
}


def _call(app: Callable[..., Any], options: list[str]) -> None:
    app(options, standalone_mode=False)


def command(work: str, folder: Path, *further: str) -> list[str]:
    """Return the command line that does a work in a process of its own."""
    return [sys.executable, "-m", "benchmarks.faults.works", work, str(folder), *further]


def environment() -> dict[str, str]:
    """Return the environment of such a process: this repository, one thread."""
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def _fill_after(writes: int) -> None:
    """Let every write after so many fail as on a full disk: files are flushed by ``os.fsync`` before they count."""
    flush, made = os.fsync, [0]

    def full(descriptor: int) -> None:
        made[0] += 1
        if made[0] > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    os.fsync = full


def main(arguments: list[str] | None = None) -> None:
    """Do one work, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=tuple(WORKS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--largest-file", type=int, help="limit of the size of a file, in bytes")
    parser.add_argument("--full-after", type=int, help="number of writes after which the disk is full")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if chosen.largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (chosen.largest_file, chosen.largest_file))
    if chosen.full_after is not None:
        _fill_after(chosen.full_after)
    run_command(lambda: WORKS[chosen.work](chosen.folder, chosen.seed))


if __name__ == "__main__":
    main()
