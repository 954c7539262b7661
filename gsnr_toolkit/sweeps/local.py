"""Runs on this machine, one process each, so that a run that is killed leaves the others alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.sweeps.job import Job, write_failure

__all__ = ["choose_workers", "run_local"]

_PATIENCE = 10.0  # seconds between SIGTERM and SIGKILL
_PAUSE = 0.05


def choose_workers(workers: int | None, threads: int, device: str | None) -> tuple[int, list[str | None]]:
    """Choose the number of simultaneous runs, and their devices.

    Args:
        workers: The user's choice; None for one per GPU, or without GPUs for all cores.
        threads: Threads per run.
        device: The user's choice; None for the GPUs of this machine.

    Returns:
        Number of processes, and the devices that they use in turn.

    Raises:
        ProbeError: If a number is not positive.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise ProbeError(f"expected {name} to be 1 or more, got {value}; pass --{name} 1, or leave it out")
    devices = [device]
    if device is None or device == "cuda":
        import torch

        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or devices
    on_gpu = bool(devices[0] and devices[0].startswith("cuda"))
    return workers or (len(devices) if on_gpu else max(1, _cores() // threads)), devices


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_local(jobs: Sequence[Job], workers: int, devices: Sequence[str | None]) -> Generator[Job]:
    """Run each job in a process of its own, several at a time.

    Closing the generator early ends the running processes; their checkpoints remain.

    Args:
        jobs: The runs, in the order in which they start.
        workers: Number of simultaneous runs.
        devices: Devices that the processes use in turn.

    Yields:
        Each job when its process has ended, whether it succeeded or failed.
    """
    waiting = deque(jobs)
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    try:
        while waiting or running:
            for slot in range(workers):
                if waiting and slot not in running:
                    job = replace(waiting.popleft(), device=devices[slot % len(devices)])
                    running[slot] = (job, _start(job))
            ended = [slot for slot, (_, process) in running.items() if process.poll() is not None]
            for slot in ended:
                job, process = running.pop(slot)
                _close(job, process)
                yield job
            if not ended:
                time.sleep(_PAUSE)
    finally:
        _end([process for _, process in running.values()])


def _start(job: Job) -> subprocess.Popen[bytes]:
    """Start a worker process."""
    threads = str(job.threads)
    # The worker gets our search path, so that it finds the user's own models and data sets too.
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with open(job.log, "ab") as log:
        # Nothing is written to stdin; the worker notices our end when the pipe closes. In a session of its own it does
        # not get Ctrl-C itself: we end it.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "gsnr_toolkit.sweeps.worker", job.to_json()],
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip


def _close(job: Job, process: subprocess.Popen[bytes]) -> None:
    """Write the failure file for a process that could not write it itself, and remove an empty log."""
    if process.stdin:
        process.stdin.close()
    code = process.returncode
    if code and not job.failure.exists():
        how = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
        hint = "; if memory ran out, use fewer --workers" if code == -signal.SIGKILL else ""
        write_failure(job, f"its process ended with {how}{hint}; its output is in {job.log}")
    if job.log.exists() and not job.log.stat().st_size:
        job.log.unlink()


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()
