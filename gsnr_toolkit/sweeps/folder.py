"""The folder of a sweep: its grid, one folder per run, and a lock for the process that works on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.arguments import PATH, check_arguments
from gsnr_toolkit.support.atomic import read_json, write_json
from gsnr_toolkit.support.locks import is_locked, locked
from gsnr_toolkit.support.run_folder import CONFIG, RESULT, read_finished
from gsnr_toolkit.sweeps.grid import Grid, value_text
from gsnr_toolkit.training.config import TrainConfig

__all__ = ["SweepFolder"]

_FORMAT = 1
_LOCK = "sweep.lock"


class SweepFolder:
    """Locations and state of a sweep's files.

    ``sweep.json`` holds the grid, ``sweep.csv`` the table, ``runs/KEY`` the run whose config has that key,
    ``failed/KEY.json`` the reason of a failure, ``logs/KEY.txt`` the output of the run's process.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        check_arguments(folder=(path, PATH))
        self.path = Path(path).resolve()
        self.grid_file, self.table_file = self.path / "sweep.json", self.path / "sweep.csv"

    def run_folder(self, config: TrainConfig) -> Path:
        """Folder of a run."""
        return self.path / "runs" / config.key

    def failure_file(self, config: TrainConfig) -> Path:
        """File with the reason why a run failed; missing if it did not."""
        return self.path / "failed" / f"{config.key}.json"

    def log_file(self, config: TrainConfig) -> Path:
        """Output of the run's process."""
        return self.path / "logs" / f"{config.key}.txt"

    def result(self, config: TrainConfig) -> dict[str, Any] | None:
        """Read the results of a run; None if it is not finished."""
        folder = self.run_folder(config)
        return read_finished(folder, config.to_dict(), "run") if (folder / RESULT).exists() else None

    def failure(self, config: TrainConfig) -> str | None:
        """Read why a run failed, as a sentence; None if it did not fail."""
        path = self.failure_file(config)
        try:
            return str(read_json(path)["message"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return f"the reason is lost: {path} cannot be read"

    def state(self, config: TrainConfig) -> str:
        """Return the progress of a run: ``"done"``, ``"failed"``, ``"begun"`` or ``"new"``."""
        folder = self.run_folder(config)
        if (folder / RESULT).exists():
            return "done"
        if self.failure_file(config).exists():
            return "failed"
        return "begun" if (folder / CONFIG).exists() else "new"

    def load_grid(self) -> Grid:
        """Read the grid.

        Returns:
            The grid of the sweep.

        Raises:
            ProbeError: If there is no sweep in the folder.
        """
        try:
            stored = read_json(self.grid_file)
            if stored["format"] == _FORMAT:
                return Grid.from_dict(stored)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ProbeError(
                f"expected {self.path} to hold a sweep, but its sweep.json cannot be read ({reason}); give the folder "
                "that was passed as --out"
            ) from error
        raise ProbeError(
            f"expected a sweep of format {_FORMAT} in {self.path}, got format {stored['format']!r}; read it with the "
            "version of the program that wrote it, or choose another folder"
        )

    def claim(self, grid: Grid, *, overwrite: bool = False) -> str:
        """Use the folder for a grid: a new one, the same one again, or one with more values.

        Nothing is deleted. If a grid is overwritten, its runs stay in ``runs``.

        Args:
            grid: The grid to run.
            overwrite: Whether the grid of another sweep may be replaced.

        Returns:
            The values added to an existing sweep, in words; empty for a new or an equal one.

        Raises:
            ProbeError: If the folder cannot be written, holds something else, or holds a sweep with values that the
                grid lacks.
        """
        note = self.check(grid, overwrite=overwrite)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # first: if the disk is full, the folder stays one in which the same call may begin again
            write_json(self.grid_file, {"format": _FORMAT, **grid.to_dict()})
            for name in ("runs", "failed", "logs"):
                (self.path / name).mkdir(exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        return note

    def check(self, grid: Grid, *, overwrite: bool = False) -> str:
        """Do what :meth:`claim` does, without writing anything.

        Args:
            grid: The grid to run.
            overwrite: Whether the grid of another sweep may be replaced.

        Returns:
            The values that would be added.
        """
        return "" if self._is_empty() else self._note_changes(grid, overwrite=overwrite)

    def _is_empty(self) -> bool:
        try:
            # a killed process may leave a hidden temporary file of atomic_file
            return not self.path.exists() or all(
                entry.name == _LOCK or entry.name.startswith(".") for entry in self.path.iterdir()
            )
        except NotADirectoryError:
            raise ProbeError(f"expected a folder, got the file {self.path}; choose another --out") from None

    def _note_changes(self, grid: Grid, *, overwrite: bool) -> str:
        if not self.grid_file.exists():
            raise ProbeError(
                f"expected {self.path} to be empty or to hold a sweep, but it has other files and no sweep.json; "
                "choose another --out"
            )
        old = self.load_grid()
        lost, added = _described(old.lost_in(grid)), _described(grid.lost_in(old))
        if lost and not overwrite:
            raise ProbeError(
                f"expected the sweep in {self.path} to have no other settings than this one, but it does (only there: "
                f"{lost}; only here: {added or 'nothing'}); include its values to add to them, choose another --out, "
                "or pass --overwrite, which keeps the old runs in runs/ but drops them from the table"
            )
        return added

    def _unwritable(self, error: OSError) -> ProbeError:
        reason = error.strerror or error
        return ProbeError(f"expected a writable folder, but {self.path} is not ({reason}); choose another --out")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process; the operating system releases the lock however the process ends.

        Yields:
            Nothing.

        Raises:
            ProbeError: If another process holds the lock, or the folder cannot be written.
        """
        with locked(self.path, _LOCK, keep=True):
            yield

    @property
    def busy(self) -> bool:
        """Whether a process is working on the folder now."""
        return is_locked(self.path, _LOCK)


def _described(settings: dict[str, tuple[Any, ...]]) -> str:
    return "; ".join(f"{name} {', '.join(map(value_text, values))}" for name, values in settings.items())
