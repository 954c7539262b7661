"""The folder of a sweep: its grid, a folder for each run, and who is at work on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.atomic import read_json, write_json
from gsnr_toolkit.sweeps.grid import Grid
from gsnr_toolkit.training.config import TrainConfig

__all__ = ["SweepFolder"]

_FORMAT = 1


class SweepFolder:
    """Where the files of a sweep are.

    ``sweep.json`` holds the grid, ``sweep.csv`` the table, ``runs/KEY`` the run whose config has that key,
    ``failed/KEY.json`` why it failed, ``logs/KEY.txt`` what its process printed.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        self.grid_file, self.table_file = self.path / "sweep.json", self.path / "sweep.csv"

    def run_folder(self, config: TrainConfig) -> Path:
        """Folder of a run."""
        return self.path / "runs" / config.key

    def failure_file(self, config: TrainConfig) -> Path:
        """Where it is written why a run failed; missing where it did not."""
        return self.path / "failed" / f"{config.key}.json"

    def log_file(self, config: TrainConfig) -> Path:
        """What the run's process printed."""
        return self.path / "logs" / f"{config.key}.txt"

    def result(self, config: TrainConfig) -> dict[str, Any] | None:
        """Results of a finished run.

        Returns:
            The row; None if the run is not finished.
        """
        folder = self.run_folder(config)
        if not (folder / "result.json").exists():
            return None
        from gsnr_toolkit.training.run import read_result

        return read_result(folder, config)

    def failure(self, config: TrainConfig) -> str | None:
        """Why a run failed.

        Returns:
            A sentence; None if it did not fail.
        """
        with suppress(FileNotFoundError):
            return str(read_json(self.failure_file(config))["message"])
        return None

    def state(self, config: TrainConfig) -> str:
        """How far a run is.

        Returns:
            ``"done"``, ``"failed"``, ``"begun"`` or ``"new"``.
        """
        folder = self.run_folder(config)
        if (folder / "result.json").exists():
            return "done"
        if self.failure_file(config).exists():
            return "failed"
        return "begun" if (folder / "config.json").exists() else "new"

    def load_grid(self) -> Grid:
        """Read the grid.

        Returns:
            The grid of the sweep.

        Raises:
            ProbeError: If there is no sweep here.
        """
        try:
            stored = read_json(self.grid_file)
            if stored["format"] == _FORMAT:
                return Grid.from_dict(stored)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ProbeError(
                f"expected {self.path} to hold a sweep, but its sweep.json cannot be read ({reason}); name the folder "
                "that was given as --out"
            ) from error
        raise ProbeError(f"expected a sweep of format {_FORMAT} in {self.path}, got {stored['format']!r}")

    def claim(self, grid: Grid, *, overwrite: bool = False) -> str:
        """Take the folder for a grid: new, the same one again, or one with more values.

        Nothing is deleted: where a grid is overwritten, runs of the old one stay in ``runs``.

        Args:
            grid: What is to be run.
            overwrite: Whether the grid of another sweep may be replaced.

        Returns:
            What was added to the sweep that was there, in words; empty for a new or an equal one.

        Raises:
            ProbeError: If the folder cannot be written, or holds something else, or a sweep with values that the
                grid lacks.
        """
        note = "" if self._is_empty() else self._note_changes(grid, overwrite=overwrite)
        try:
            for name in ("runs", "failed", "logs"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            write_json(self.grid_file, {"format": _FORMAT, **grid.to_dict()})
        except OSError as error:
            raise self._unwritable(error) from error
        return note

    def check(self, grid: Grid, *, overwrite: bool = False) -> str:
        """Like :meth:`claim`, but write nothing.

        Args:
            grid: What would be run.
            overwrite: Whether the grid of another sweep may be replaced.

        Returns:
            What would be added.
        """
        return "" if self._is_empty() else self._note_changes(grid, overwrite=overwrite)

    def _is_empty(self) -> bool:
        try:
            return not self.path.exists() or not any(entry.name != "sweep.lock" for entry in self.path.iterdir())
        except NotADirectoryError:
            raise ProbeError(f"expected a folder, got the file {self.path}; choose another --out") from None

    def _note_changes(self, grid: Grid, *, overwrite: bool) -> str:
        if not self.grid_file.exists():
            raise ProbeError(
                f"expected {self.path} to be empty or to hold a sweep, but it has other files and no sweep.json; "
                "choose another --out"
            )
        old = self.load_grid()
        lost, added = old.lost_in(grid), grid.lost_in(old)
        if lost and not overwrite:
            there = "; ".join(f"{name} {_listed(values)}" for name, values in lost.items())
            here = "; ".join(f"{name} {_listed(values)}" for name, values in added.items()) or "no other value"
            raise ProbeError(
                f"{self.path} holds a sweep with other settings (there and not here: {there}; here and not there: "
                f"{here}); name all of its values to add to them, choose another --out, or pass --overwrite, which "
                "keeps the old runs in runs/ and leaves them out of the table"
            )
        return "; ".join(f"{name} {_listed(values)}" for name, values in added.items())

    def _unwritable(self, error: OSError) -> ProbeError:
        reason = error.strerror or error
        return ProbeError(f"expected a folder that can be written, got {self.path} ({reason}); choose another --out")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one at work on this folder; the system lets go of the lock when the process ends, however.

        Yields:
            Nothing.

        Raises:
            ProbeError: If another process is at work on it, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / "sweep.lock", "a+", encoding="utf8")  # noqa: SIM115 - closed by the next line
        except OSError as error:
            raise self._unwritable(error) from error
        with lock as stream:
            if not _try_lock(stream.fileno()):
                stream.seek(0)
                raise ProbeError(
                    f"another process ({stream.read().strip() or 'unknown'}) is at work on {self.path}; wait for it, "
                    "or choose another --out"
                )
            stream.truncate(0)
            stream.write(f"process {os.getpid()}")
            stream.flush()
            yield

    @property
    def busy(self) -> bool:
        """Whether a process is at work on it now."""
        try:
            with open(self.path / "sweep.lock", encoding="utf8") as stream:
                return not _try_lock(stream.fileno())
        except OSError:
            return False


def _try_lock(descriptor: int) -> bool:
    """Lock an open file; True also where the system or the file system has no locks to give."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
