"""Disturb small runs at random moments, and count what is lost and what is said badly; nothing is expected.

Claim: after a kill, a full disk or a damaged file, the same call ends with the same bits as an undisturbed run, or says
what is wrong in one sentence. Commands: ``python -m benchmarks.faults`` (half an hour on two cores),
``--quick`` (a quarter), ``--only NAME`` (the cases and works whose name contains it), ``--seed`` for other moments. A
line of the JSON file names the seed and the trial of each failure, so that it can be repeated.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.faults.damage import damaged_checkpoints, damaged_reports, damaged_results
from benchmarks.faults.disk import full_disk, no_writing, small_disk
from benchmarks.faults.kills import finish, killed, time_of_writing, two_writers
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.works import WORKS
from benchmarks.instruments import parser, write_json
from gsnr_toolkit.support.provenance import environment

TABLE = Path(__file__).parents[1] / "faults.json"
_TRAININGS = ("run_training", "corit train")


def _cases(work: str, place: Path, trials: int, seed: int) -> Iterator[tuple[str, Callable[[], Outcome]]]:
    """Yield the name of each case on a work, and what does it; undisturbed runs are made when first needed."""
    known: dict[int, tuple[Path, float]] = {}

    def whole(number: int = 0) -> Path:
        if number not in known:
            folder = place / f"whole-{number}"
            if number == 0:
                known[number] = (folder, time_of_writing(work, folder))
            else:
                finish(work, folder, "--seed", str(number))
                known[number] = (folder, 0.0)
        return known[number][0]

    def kill() -> Outcome:
        folder = whole()
        return killed(work, place, folder, known[0][1], trials, seed)

    yield "kill", kill
    yield "full disk", lambda: full_disk(work, place, whole(), trials, seed)
    yield "file system", lambda: small_disk(work, place)
    yield "cannot be written", lambda: no_writing(work, place)
    yield "two writers", lambda: two_writers(work, place, {0: whole(), 1: whole(1)}, min(trials, 2))
    if work in _TRAININGS:
        yield "damaged checkpoint", lambda: damaged_checkpoints(work, place, whole(), 2 * trials, seed)
        yield "damaged result", lambda: damaged_results(work, place, whole(), trials, seed)
    if work == "gsnr-probe":
        yield "damaged report", lambda: damaged_reports(place, whole(), 5 * trials, seed)


def _show(outcomes: list[Outcome]) -> None:
    table = Table("case", "run", "trials", "lost", "said badly", "note")
    for each in outcomes:
        numbers = (each.trials, len(each.lost), len(each.badly_said))
        table.add_row(each.case, each.work, *map(str, numbers), each.note)
    console = Console(width=140)
    console.print(table)
    for each in outcomes:
        for text in (*each.lost, *each.badly_said):
            console.print(f"{each.case}, {each.work}: {text}", markup=False, style="red")


def main(arguments: list[str] | None = None) -> int:
    """Run the cases, print a table and write a JSON file.

    Args:
        arguments: Arguments of the command line; those of the process when None.

    Returns:
        The number of failures.
    """
    commands = parser("benchmarks.faults", __doc__)
    commands.add_argument("--quick", action="store_true", help="one trial of each case")
    commands.add_argument("--only", default="", help="part of the name of a case or a run, such as kill or gsnr-probe")
    commands.add_argument("--trials", type=int, default=4, help="random trials of each case")
    commands.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    commands.add_argument("--output", type=Path, default=TABLE)
    chosen = commands.parse_args(arguments)
    torch.set_num_threads(1)
    trials, outcomes, began = 1 if chosen.quick else chosen.trials, [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gsnr-faults-") as temporary:
        Path(temporary).chmod(0o755)
        for work in WORKS:
            place = Path(temporary) / work.replace(" ", "-")
            place.mkdir()
            for name, case in _cases(work, place, trials, chosen.seed):
                if chosen.only in f"{name}, {work}":
                    outcomes.append(case())
                    print(f"{name}, {work}: {time.monotonic() - began:.0f} s", flush=True)
    _show(outcomes)
    about = {"provenance": environment(), "seed": chosen.seed, "trials": trials}
    write_json(chosen.output, {**about, "outcomes": [asdict(each) for each in outcomes]})
    return sum(len(each.lost) + len(each.badly_said) for each in outcomes)


if __name__ == "__main__":
    raise SystemExit(1 if main() else 0)
