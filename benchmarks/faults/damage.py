"""Damaged files: cut off, with changed bytes, empty, half a JSON, of another version, or of another run."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.faults.kills import start
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.works import WORKS
from gsnr_toolkit.commands.common import run_command
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.report.report import Report

Damage = Callable[[Path, random.Random], None]


def _cut(path: Path, moments: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: moments.randrange(len(content))])


def _flip(path: Path, moments: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[moments.randrange(len(content))] ^= 1 << moments.randrange(8)
    path.write_bytes(bytes(content))


def _empty(path: Path, _: random.Random) -> None:
    path.write_bytes(b"")


def _old_version(path: Path, _: random.Random) -> None:
    torch.save({**torch.load(path, weights_only=True), "format": 0}, path)


def _poor(path: Path, _: random.Random) -> None:
    torch.save({"format": 1, "step": 3}, path)


DAMAGES: dict[str, Damage] = {"cut off": _cut, "one bit": _flip, "empty": _empty}
OF_CHECKPOINTS: dict[str, Damage] = {**DAMAGES, "other version": _old_version, "entries missing": _poor}


def _interrupted(work: str, folder: Path, *further: str) -> None:
    """Start a work and kill it once it has written a checkpoint."""
    with start(work, folder, *further) as process:
        while process.poll() is None and not (folder / "checkpoint.pt").exists():
            time.sleep(0.005)
        process.kill()


def _here(work: str, folder: Path) -> tuple[int, str]:
    """Do a work in this process; return the exit code and what was written on stderr."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            run_command(lambda: WORKS[work](folder, 0))
        except SystemExit as ended:
            return int(ended.code or 0), said.getvalue()
        except Exception as error:  # what a user would see as a traceback
            return 1, f"Traceback: {type(error).__name__}: {error}"
    return 0, said.getvalue()


def damaged_checkpoints(work: str, place: Path, whole: Path, trials: int, seed: int) -> Outcome:
    """Damage the checkpoint of an interrupted run, and let it go on."""
    outcome = Outcome("damaged checkpoint", work)
    begun, other = place / "begun", place / "other"
    _interrupted(work, begun)
    _interrupted(work, other, "--seed", "1")
    folder = place / "damaged"

    def foreign(path: Path, _: random.Random) -> None:
        shutil.copy(other / "checkpoint.pt", path)

    refused = 0
    for kind, damage in {**OF_CHECKPOINTS, "another run's": foreign}.items():
        for trial in range(trials if kind in ("cut off", "one bit") else 1):
            shutil.copytree(begun, folder)
            damage(folder / "checkpoint.pt", random.Random(f"{seed} {work} {kind} {trial}"))
            name = f"seed {seed}, {kind}, trial {trial}"
            code, text = _here(work, folder)
            outcome.trials += 1
            if code:
                refused += 1
                outcome.hear(text, name)
            else:  # bytes between the records of the file mean nothing
                outcome.compare(folder, whole, name)
            shutil.rmtree(folder)
    outcome.note = f"{refused} refused, the others end bit for bit"
    return outcome


def damaged_results(work: str, place: Path, whole: Path, trials: int, seed: int) -> Outcome:
    """Damage the JSON files of a finished run, and call it again."""
    outcome = Outcome("damaged config or result", work)
    folder = place / "damaged"
    for file in ("config.json", "result.json"):
        for kind in ("cut off", "empty"):
            for trial in range(trials if kind == "cut off" else 1):
                shutil.copytree(whole, folder)
                DAMAGES[kind](folder / file, random.Random(f"{seed} {work} {file} {trial}"))
                name = f"seed {seed}, {file} {kind}, trial {trial}"
                code, text = _here(work, folder)
                outcome.trials += 1
                if code:
                    outcome.hear(text, name)
                elif not _only_a_newline(folder / file, whole / file):
                    outcome.lost.append(f"{name}: it was taken for whole")
                shutil.rmtree(folder)
    return outcome


def _only_a_newline(damaged: Path, whole: Path) -> bool:
    return damaged.read_text(encoding="utf8").strip() == whole.read_text(encoding="utf8").strip()


def damaged_reports(place: Path, whole: Path, trials: int, seed: int) -> Outcome:
    """Damage a file of a saved report, and load it."""
    outcome = Outcome("damaged report", "Report.load")
    folder = place / "damaged"
    for file, kind, trial in _report_cases(trials):
        shutil.copytree(whole, folder)
        DAMAGES[kind](folder / file, random.Random(f"{seed} {file} {kind} {trial}"))
        name = f"seed {seed}, {file} {kind}, trial {trial}"
        outcome.trials += 1
        try:
            same = Report.load(folder).to_texts() == Report.load(whole).to_texts()
            # a changed letter of the summary's own words cannot be told from others
            if not same and file != "report.json":
                outcome.lost.append(f"{name}: it was taken for whole")
        except ProbeError as error:
            outcome.hear(f"error: {error}", name)
        except Exception as error:  # what a user would see as a traceback
            outcome.badly_said.append(f"{name}: {type(error).__name__}: {error}")
        shutil.rmtree(folder)
    return outcome


def _report_cases(trials: int) -> Iterator[tuple[str, str, int]]:
    for file in ("report.json", "layers.csv", "totals.csv", "drift.csv"):
        for kind in DAMAGES:
            yield from ((file, kind, trial) for trial in range(trials))
