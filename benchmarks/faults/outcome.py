"""What a case is judged by: the files of a run against those of an undisturbed one, and the form of its error."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from safetensors import safe_open

_FORM = re.compile(r"error: (?:.{1,80}?: )?expected .+?(?:, got|,? but) .+; .+", re.DOTALL)
_TIMES = {"seconds", "wall_seconds", "provenance", "sha256", "detector"}  # a detector is named after its folder
_ASIDE = {"provenance.json", "sweep.lock"}


@dataclass
class Outcome:
    """The trials of one case on one work.

    Attributes:
        case: What was done to the runs.
        work: The run.
        trials: Number of trials.
        lost: What was wrong afterwards, one line each; nothing is expected.
        badly_said: Errors that were no message of the form "expected, got; do".
        messages: The errors that were said.
        note: Remark for the table, such as why a case was left out.
    """

    case: str
    work: str
    trials: int = 0
    lost: list[str] = field(default_factory=list)
    badly_said: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    note: str = ""

    def hear(self, text: str, trial: str) -> None:
        """Judge what a failed run wrote on stderr."""
        lines = text[text.find("error: ") :] if "error: " in text else text
        if "Traceback" in text or not _FORM.match(lines):
            self.badly_said.append(f"{trial}: {text.strip()[-600:]}")
        elif lines.strip() not in self.messages:
            self.messages.append(lines.strip())

    def compare(self, folder: Path, whole: Path, trial: str) -> None:
        """Compare a folder with that of an undisturbed run, file by file."""
        self.lost += [f"{trial}: {text}" for text in differences(folder, whole)]


def differences(folder: Path, whole: Path) -> list[str]:
    """List the files that differ, lack or are left over; times and the machine may differ."""
    ours, theirs = _files(folder), _files(whole)
    found = [f"{name} is left over" for name in sorted(ours - theirs)]
    found += [f"{name} is lost" for name in sorted(theirs - ours)]
    return found + [
        f"{name} differs" for name in sorted(ours & theirs) if _content(folder / name) != _content(whole / name)
    ]


def _files(folder: Path) -> set[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if path.name not in _ASIDE and path.parts[0] != "logs"}


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return _steady(json.loads(path.read_text(encoding="utf8")))
    if path.suffix == ".csv":
        rows = csv.DictReader(StringIO(path.read_text(encoding="utf8")))
        return [{name: value for name, value in row.items() if name not in _TIMES} for row in rows]
    if path.suffix == ".safetensors":  # whose metadata come in any order
        with safe_open(path, framework="pt") as file:
            return file.metadata(), {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118
    return path.read_bytes()


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _steady(item) for name, item in value.items() if name not in _TIMES}
    return value
