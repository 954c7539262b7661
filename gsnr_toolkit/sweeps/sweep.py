"""Run a sweep: skip finished runs, resume interrupted ones, and rewrite the table after each run."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from gsnr_toolkit.support.arguments import INTEGER, MAPPING, NAME, PATH, check_arguments, instance, optional
from gsnr_toolkit.sweeps.folder import SweepFolder
from gsnr_toolkit.sweeps.grid import Grid, check_names, make_grid
from gsnr_toolkit.sweeps.job import TRAIN, Job, write_failure
from gsnr_toolkit.sweeps.local import choose_workers, run_local
from gsnr_toolkit.sweeps.on_ray import run_on_ray
from gsnr_toolkit.sweeps.show import reporter
from gsnr_toolkit.sweeps.table import read_row, read_table, write_table
from gsnr_toolkit.training.config import TrainConfig

__all__ = ["run_grid", "sweep"]


def sweep(
    base: TrainConfig,
    axes: Mapping[str, Sequence[Any]],
    out: str | Path,
    *,
    workers: int | None = None,
    threads: int = 1,
    device: str | None = None,
    ray: str | None = None,
    record_plain: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every combination of some settings, in one folder, and collect the results in one table.

    Called again with the same folder, it skips finished runs and continues interrupted and failed ones. Called with
    more values on an axis, it adds runs. Each run has a process of its own: a run that fails or is killed leaves the
    others alone, and its row has the status ``"failed"``.

    Args:
        base: The fixed settings.
        axes: Fields of :class:`TrainConfig` to vary, and their values.
        out: The folder: ``sweep.csv`` is the table, ``runs/KEY`` a run.
        workers: Number of simultaneous runs; one per GPU, or without GPUs all cores, when None.
        threads: Threads per run.
        device: Where to train; the GPUs of this machine, or else the CPU, when None.
        ray: Address of a Ray cluster to train on, or ``"local"`` for Ray on this machine.
        record_plain: Record GSNR and COR (``record_every``) only in the runs with rho = 0; recording costs more than
            training.
        overwrite: Replace the grid of a folder that holds another sweep; its runs stay in ``runs``.
        progress: Report finished runs on stderr.

    Returns:
        One row per run: ``key, status, message``, every setting, and the results that
        :func:`gsnr_toolkit.training.run.run_training` returns.

    Raises:
        ProbeError: If a setting is invalid, the folder holds something else, or another process is working on it.
    """
    check_arguments(base=(base, instance(TrainConfig, "a TrainConfig", "pass TrainConfig(...)")), axes=(axes, MAPPING))
    grid = make_grid(base, axes, record_plain=record_plain)
    return run_grid(
        grid, out, workers=workers, threads=threads, device=device, ray=ray, overwrite=overwrite, progress=progress
    )


def run_grid(
    grid: Grid,
    out: str | Path,
    *,
    workers: int | None = None,
    threads: int = 1,
    device: str | None = None,
    ray: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
    function: str = TRAIN,
) -> pd.DataFrame:
    """Run a grid as :func:`sweep` does.

    Args:
        grid: What to train.
        out: The folder.
        workers: Number of simultaneous runs.
        threads: Threads per run.
        device: Where to train.
        ray: Address of a Ray cluster.
        overwrite: Replace the grid of a folder that holds another sweep.
        progress: Report finished runs on stderr.
        function: ``"module:function"`` that trains, called like ``run_training``.

    Returns:
        The table.
    """
    check_arguments(
        out=(out, PATH),
        workers=(workers, optional(INTEGER)),
        threads=(threads, INTEGER),
        device=(device, optional(NAME)),
        ray=(ray, optional(NAME)),
    )
    configs = grid.configs
    # Find mistakes before the folder is touched.
    check_names(grid)
    count, devices = choose_workers(workers, threads, device)
    folder = SweepFolder(out)
    folder.check(grid, overwrite=overwrite)
    with folder.locked():
        folder.claim(grid, overwrite=overwrite)
        rows = _finished_rows(folder, configs)
        write_table(folder, _in_order(rows, configs))
        jobs = [_job(folder, config, threads, device, function) for config in configs if config.key not in rows]
        for job in jobs:
            job.failure.unlink(missing_ok=True)
        with (
            closing(_runs(jobs, ray, workers, count, devices)) as ended,
            reporter(len(configs), len(rows), grid.shown, show=progress) as report,
        ):
            for job in ended:
                rows[job.config.key] = row = _row_of(folder, job)
                write_table(folder, _in_order(rows, configs))
                report(job.config, row)
    return read_table(folder.path)


def _runs(
    jobs: list[Job], ray: str | None, workers: int | None, count: int, devices: list[str | None]
) -> Generator[Job]:
    if ray is None or not jobs:
        return run_local(jobs, count, devices)
    return run_on_ray(jobs, ray, workers=workers)


def _row_of(folder: SweepFolder, job: Job) -> dict[str, Any]:
    """Read the row of a run that has ended, even if it wrote neither results nor a failure."""
    row = read_row(folder, job.config)
    if row is None:
        write_failure(job, f"it ended without results; its output, if any, is in {job.log}")
        row = read_row(folder, job.config)
        assert row is not None
    return row


def _finished_rows(folder: SweepFolder, configs: list[TrainConfig]) -> dict[str, dict[str, Any]]:
    rows = {config.key: read_row(folder, config) for config in configs if folder.state(config) == "done"}
    return {key: row for key, row in rows.items() if row is not None}


def _in_order(rows: Mapping[str, dict[str, Any]], configs: list[TrainConfig]) -> list[dict[str, Any]]:
    return [rows[config.key] for config in configs if config.key in rows]


def _job(folder: SweepFolder, config: TrainConfig, threads: int, device: str | None, function: str) -> Job:
    paths = (folder.run_folder(config), folder.failure_file(config), folder.log_file(config))
    return Job(config, *paths, threads=threads, device=device, function=function)
