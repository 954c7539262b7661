"""Runs that are killed with signal 9 at random moments, and two that write to one folder at once."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.faults.outcome import Outcome
from benchmarks.faults.works import command, environment

_LONGEST = 900.0
_KILLS = 2
"""Most kills in a row before a run may end."""


def start(work: str, folder: Path, *further: str) -> subprocess.Popen[str]:
    """Start a work in a process of its own."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command(work, folder, *further), stdout=subprocess.DEVNULL, stderr=pipe, text=True, env=environment()
    )


def finish(work: str, folder: Path, *further: str) -> tuple[int, str]:
    """Do a work to its end; return the exit code and what was written on stderr."""
    with start(work, folder, *further) as process:
        _, text = process.communicate(timeout=_LONGEST)
    return process.returncode, text


def _until_it_writes(process: subprocess.Popen[str], folder: Path) -> None:
    while process.poll() is None and not (folder.exists() and any(folder.iterdir())):
        time.sleep(0.005)


def time_of_writing(work: str, folder: Path) -> float:
    """Do a work undisturbed; return the seconds from its first file to its end."""
    with start(work, folder) as process:
        _until_it_writes(process, folder)
        began = time.monotonic()
        _, text = process.communicate(timeout=_LONGEST)
    if process.returncode:
        raise RuntimeError(f"{work} fails undisturbed: {text}")
    return time.monotonic() - began


def killed(work: str, place: Path, whole: Path, writes_for: float, trials: int, seed: int) -> Outcome:
    """Kill a run once or twice while it writes, then let it end, and compare."""
    outcome = Outcome("kill -9, then the same again", work, trials)
    kills = 0
    for trial in range(trials):
        moments = random.Random(f"{seed} {work} {trial}")
        folder, name = place / f"kill-{trial}", f"seed {seed}, trial {trial}"
        for _ in range(moments.randint(1, _KILLS)):
            with start(work, folder) as process:
                _until_it_writes(process, folder)
                time.sleep(moments.uniform(0, writes_for))
                process.send_signal(signal.SIGKILL)
            kills += process.returncode == -signal.SIGKILL
        code, text = finish(work, folder)
        if code:
            outcome.lost.append(f"{name}: it does not go on (exit code {code})")
            outcome.hear(text, name)
        else:
            outcome.compare(folder, whole, name)
        shutil.rmtree(folder, ignore_errors=True)
    outcome.note = f"{kills} kills"
    return outcome


def two_writers(work: str, place: Path, wholes: dict[int, Path], trials: int) -> Outcome:
    """Start two runs in one folder at once, with the same and with other settings."""
    outcome = Outcome("two writers of one folder", work, trials)
    refused = 0
    for trial in range(trials):
        folder, name = place / f"two-{trial}", f"trial {trial}"
        seeds = [0, trial % 2]
        both = [start(work, folder, "--seed", str(seed)) for seed in seeds]
        texts = [process.communicate(timeout=_LONGEST)[1] for process in both]
        codes = [process.returncode for process in both]
        for code, text in zip(codes, texts, strict=True):
            if code:
                refused += 1
                outcome.hear(text, name)
        winners = {seed for seed, code in zip(seeds, codes, strict=True) if not code}
        if len(winners) != 1:
            outcome.lost.append(f"{name}: runs of seeds {sorted(winners)} ended well in one folder")
        else:
            outcome.compare(folder, wholes[winners.pop()], name)
        shutil.rmtree(folder, ignore_errors=True)
    outcome.note = f"{refused} refused"
    return outcome
