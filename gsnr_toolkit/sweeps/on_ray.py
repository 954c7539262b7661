"""Runs on a Ray cluster, each a task; the sweep's folder must be on a file system that its machines share."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.sweeps.job import Job, perform, write_failure

__all__ = ["LOCAL", "run_on_ray"]

#: The address that means: start Ray on this machine, for the length of the sweep.
LOCAL = "local"


def run_on_ray(jobs: Sequence[Job], address: str, *, workers: int | None = None) -> Generator[Job]:
    """Make runs as tasks of a Ray cluster, as many at a time as it has room for.

    When the iterator is closed early, the tasks still at work are cancelled; what they saved stays.

    Args:
        jobs: The runs.
        address: ``"auto"``, ``"HOST:PORT"``, ``"ray://HOST:PORT"``, or ``"local"``.
        workers: With ``"local"``, how many at a time; as many as the cores hold when None.

    Yields:
        Each run when its task has ended, well or not.

    Raises:
        ProbeError: If Ray is not installed, or the cluster cannot be reached.
    """
    ray = _connect(address, jobs[0].threads if jobs else 1, workers)
    pending: dict[Any, Job] = {}
    try:
        for job in jobs:
            # Ray shows a task the one GPU that it was given; one that was given none must not look for any
            gpus, device = (1, "cuda") if (job.device or "").startswith("cuda") else (0, job.device or "cpu")
            task = ray.remote(num_cpus=job.threads, num_gpus=gpus, max_retries=0)(perform)
            pending[task.remote(replace(job, device=device))] = job
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(done)
            _close(ray, done, job)
            yield job
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        ray.shutdown()


def _connect(address: str, threads: int, workers: int | None) -> Any:
    try:
        import ray
    except ImportError:
        raise ProbeError("--ray needs Ray, which is not installed: pip install 'gsnr-toolkit[ray]'") from None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    if address == LOCAL:
        # the machine is the same, so what is found here is found by a task too
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
        options |= {"include_dashboard": False, "runtime_env": {"env_vars": environment}}
        options |= {"num_cpus": workers * threads} if workers else {}
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ProbeError(f"expected a Ray cluster at {address!r}, but: {error}; give --ray local, or none") from error
    return ray


def _close(ray: Any, reference: Any, job: Job) -> None:
    """Look at how a task ended; one whose process died, or whose files are not here, could not say so itself."""
    try:
        went_well = ray.get(reference)
    except ray.exceptions.RayError as error:
        write_failure(job, f"its Ray task ended with {type(error).__name__}: {str(error).splitlines()[0]}")
        return
    if went_well and not (job.folder / "result.json").exists():
        write_failure(
            job,
            f"it was trained on another machine, whose {job.folder} is not this one's: give an --out that all machines "
            "of the cluster share",
        )
