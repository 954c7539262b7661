"""Runs on a Ray cluster, one task each. All machines must share the file system of the sweep's folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.sweeps.job import Job, perform, write_failure

__all__ = ["LOCAL", "run_on_ray"]

#: The address that starts Ray on this machine, for the duration of the sweep.
LOCAL = "local"


def run_on_ray(jobs: Sequence[Job], address: str, *, workers: int | None = None) -> Generator[Job]:
    """Run each job as a task of a Ray cluster; Ray decides how many run at a time.

    Closing the generator early cancels the running tasks; their checkpoints remain.

    Args:
        jobs: The runs.
        address: ``"auto"``, ``"HOST:PORT"``, ``"ray://HOST:PORT"``, or ``"local"``.
        workers: With ``"local"``, the number of simultaneous runs; all cores when None.

    Yields:
        Each job when its task has ended, whether it succeeded or failed.

    Raises:
        ProbeError: If Ray is not installed, or the cluster cannot be reached.
    """
    ray = _connect(address, jobs[0].threads if jobs else 1, workers)
    pending: dict[Any, Job] = {}
    try:
        for job in jobs:
            # Ray shows a task only the GPU reserved for it, as "cuda"; a task without one must not look for GPUs.
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
        raise ProbeError(
            "expected Ray for --ray, but it is not installed; run pip install 'gsnr-toolkit[ray]'"
        ) from None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    if address == LOCAL:
        # Tasks run on this machine: give them our search path, so that they find the user's own modules too.
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
        options |= {"include_dashboard": False, "runtime_env": {"env_vars": environment}}
        options |= {"num_cpus": workers * threads} if workers else {}
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ProbeError(
            f"expected a Ray cluster at {address!r}, but connecting to it failed: {error}; pass --ray local, or leave "
            "--ray out"
        ) from error
    return ray


def _close(ray: Any, reference: Any, job: Job) -> None:
    """Write the failure file for a task that could not write it itself, or wrote it on another file system."""
    try:
        succeeded = ray.get(reference)
    except ray.exceptions.RayError as error:
        write_failure(job, f"its Ray task ended with {type(error).__name__}: {str(error).splitlines()[0]}")
        return
    if succeeded and not (job.folder / "result.json").exists():
        write_failure(
            job,
            f"another machine of the cluster trained it, but its {job.folder} is not on this machine's file system; "
            "choose an --out that all machines share",
        )
