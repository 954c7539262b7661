"""Runs on this machine, each in a process of its own: one that is killed takes no other with it."""

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

_PATIENCE = 10.0
_PAUSE = 0.05


def choose_workers(workers: int | None, threads: int, device: str | None) -> tuple[int, list[str | None]]:
    """How many runs at a time, and on which devices.

    Args:
        workers: As asked for; None for one per GPU, or else as many as the cores hold.
        threads: Threads of each.
        device: As asked for; None for the GPUs there are.

    Returns:
        Number of processes, and the devices that they take in turn.

    Raises:
        ProbeError: If a number is not positive.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise ProbeError(f"expected {name} to be 1 or more, got {value}")
    devices = [device]
    if device is None or device == "cuda":
        import torch

        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or devices
    on_gpu = bool(devices[0] and devices[0].startswith("cuda"))
    return workers or (len(devices) if on_gpu else max(1, _cores() // threads)), devices


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_local(jobs: Sequence[Job], workers: int, devices: Sequence[str | None]) -> Generator[Job]:
    """Make runs in processes of their own, some at a time.

    When the iterator is closed early, the processes still at work are ended; what they saved stays.

    Args:
        jobs: The runs, in the order in which they begin.
        workers: How many at a time.
        devices: Devices that the processes take in turn.

    Yields:
        Each run when its process has ended, well or not.
    """
    waiting = deque(jobs)
    at_work: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    try:
        while waiting or at_work:
            for slot in range(workers):
                if waiting and slot not in at_work:
                    job = replace(waiting.popleft(), device=devices[slot % len(devices)])
                    at_work[slot] = (job, _start(job))
            ended = [slot for slot, (_, process) in at_work.items() if process.poll() is not None]
            for slot in ended:
                job, process = at_work.pop(slot)
                _close(job, process)
                yield job
            if not ended:
                time.sleep(_PAUSE)
    finally:
        _end([process for _, process in at_work.values()])


def _start(job: Job) -> subprocess.Popen[bytes]:
    """Start a worker, in a session of its own: Ctrl-C reaches it through us alone."""
    # our search path, so that a model or data set of one's own is found by it too
    threads = str(job.threads)
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with open(job.log, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "gsnr_toolkit.sweeps.worker", job.to_json()],
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip


def _close(job: Job, process: subprocess.Popen[bytes]) -> None:
    """Look at how a process ended; one that could not say why it failed was killed, or could not even begin."""
    if process.stdin:
        process.stdin.close()
    code = process.returncode
    if code and not job.failure.exists():
        how = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
        hint = "; if memory ran out, use fewer --workers" if code == -signal.SIGKILL else ""
        write_failure(job, f"its process ended with {how}{hint}; what it printed is in {job.log}")
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
