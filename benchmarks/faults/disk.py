"""Runs on a disk that is full, and in places that cannot be written."""

from __future__ import annotations

import random
import shlex
import shutil
import subprocess
from pathlib import Path

from benchmarks.faults.kills import finish
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.works import command, environment


def full_disk(work: str, place: Path, whole: Path, trials: int, seed: int) -> Outcome:
    """Let writing fail at a random file or size, then run the same with space, and compare."""
    outcome = Outcome("full disk, then the same again", work, trials)
    sizes = sorted(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    failed = 0
    for trial in range(trials):
        moments = random.Random(f"{seed} {work} {trial} disk")
        folder = place / f"full-{trial}"
        # by turns a limit of a file's size, which breaks a file in its middle, and an error after some whole files
        largest = ["--largest-file", str(moments.randint(1, sizes[-1] - 1))]
        limit = largest if trial % 2 == 0 else ["--full-after", str(moments.randint(0, len(sizes) - 1))]
        name = f"seed {seed}, {' '.join(limit)}"
        code, text = finish(work, folder, *limit)
        if code:
            failed += 1
            # a sweep reports its failed runs in a list of its own form, and ends with 1
            if work != "gsnr-sweep" or code != 1 or "Traceback" in text:
                outcome.hear(text, name)
        code, text = finish(work, folder)
        if code:
            outcome.lost.append(f"{name}: it does not go on (exit code {code})")
            outcome.hear(text, name)
        else:
            outcome.compare(folder, whole, name)
        shutil.rmtree(folder, ignore_errors=True)
    outcome.note = f"{failed} failed for lack of space"
    return outcome


def small_disk(work: str, place: Path) -> Outcome:
    """Run on a real file system of 16 KiB, in a name space of its own."""
    outcome = Outcome("file system of 16 KiB", work)
    folder = place / "small"
    folder.mkdir()
    mount = f"mount -t tmpfs -o size=16k none {shlex.quote(str(folder))}"
    tried = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False)
    if tried.returncode:
        outcome.note = "left out: this machine lets nobody mount in a name space"
        return outcome
    run = shlex.join(command(work, folder / "run"))
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mount} && {run}"],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    outcome.trials = 1
    if not done.returncode:
        outcome.lost.append("it ends well without space")
    elif work != "gsnr-sweep" or done.returncode != 1:
        outcome.hear(done.stderr, "16 KiB")
    return outcome


def no_writing(work: str, place: Path) -> Outcome:
    """Run where no folder can be made: a file, a path below a file, /proc, and a folder without the right to write."""
    outcome = Outcome("place that cannot be written", work)
    file = place / "file"
    file.write_text("a thesis", encoding="utf8")
    closed = place / "closed"
    closed.mkdir(mode=0o555)
    powerless = _without_powers(closed)
    for folder in (file, file / "below", Path("/proc/gsnr"), closed / "run"):
        if folder.parent == closed and powerless is None:
            outcome.note = "without the closed folder: the superuser may write there"
            continue
        start = powerless or [] if folder.parent == closed else []
        done = subprocess.run(
            [*start, *command(work, folder)], capture_output=True, text=True, env=environment(), check=False
        )
        outcome.trials += 1
        if not done.returncode:
            outcome.lost.append(f"{folder}: it ends well")
        else:
            outcome.hear(done.stderr, str(folder))
    if file.read_text(encoding="utf8") != "a thesis":
        outcome.lost.append("the file in its place was changed")
    return outcome


def _without_powers(closed: Path) -> list[str] | None:
    """Return what to put before a command so that it may not write to a closed folder; None if there is nothing."""
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]  # the superuser without its powers
    for start in ([], drop):
        try:
            tried = subprocess.run([*start, "touch", str(closed / "tried")], capture_output=True, check=False)
        except OSError:
            return None
        if tried.returncode:
            return start
        (closed / "tried").unlink()
    return None
