"""Finished trials, in memory and in a folder that a later call goes on from."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.search.trial import Trace, Trial
from gsnr_toolkit.support.atomic import make_folder, read_json, write_json
from gsnr_toolkit.support.locks import locked
from gsnr_toolkit.support.run_folder import CONFIG, read_finished

_LOCK = ".lock"


class TrialStore:
    """Trials by radius and seed; each is written to its own file as soon as it is finished.

    Args:
        folder: The folder; None to keep trials in memory alone.
        settings: What the trials depend on; a folder of others is refused.
    """

    def __init__(self, folder: str | Path | None, settings: dict[str, Any]) -> None:
        self._folder = None if folder is None else Path(folder)
        self._settings = settings
        self.trials: list[Trial] = []
        self._traces: dict[int, Trace] = {}

    def locked(self) -> AbstractContextManager[Any]:
        """Lock the folder for this process."""
        return nullcontext() if self._folder is None else locked(self._folder, _LOCK)

    def open(self) -> None:
        """Check the folder, and create it if it is missing.

        Raises:
            ProbeError: If it holds a search with other settings, or cannot be written.
        """
        if self._folder is None:
            return
        make_folder(self._folder)
        read_finished(self._folder, self._settings, "search for rho")
        write_json(self._folder / CONFIG, self._settings)

    def get(self, rho: float, seed: int) -> tuple[Trial, Trace | None] | None:
        """Return a finished trial, and its trace if it is a plain run; None if it has not been made."""
        for trial in self.trials:
            if (trial.rho, trial.seed) == (rho, seed):
                return trial, self._traces.get(seed) if rho == 0 else None
        return self._read(rho, seed)

    def _read(self, rho: float, seed: int) -> tuple[Trial, Trace | None] | None:
        if self._folder is None or not (path := self._path(rho, seed)).exists():
            return None
        try:
            stored = read_json(path)
            trace = None if stored["trace"] is None else Trace(**stored["trace"])
            trial = Trial(**stored["trial"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProbeError(
                f"expected {path} to hold a finished trial, but it cannot be read ({error}); delete that file: the "
                "same call then makes the trial again"
            ) from error
        self._keep(trial, trace)
        return trial, trace

    def put(self, trial: Trial, trace: Trace) -> None:
        """Keep a finished trial."""
        kept = trace if trial.rho == 0 else None
        if self._folder is not None:
            text = {"trial": asdict(trial), "trace": None if kept is None else asdict(kept)}
            write_json(self._path(trial.rho, trial.seed), text)
        self._keep(trial, kept)

    def _keep(self, trial: Trial, trace: Trace | None) -> None:
        self.trials.append(trial)
        if trace is not None:
            self._traces[trial.seed] = trace

    def _path(self, rho: float, seed: int) -> Path:
        assert self._folder is not None
        return self._folder / f"trial_{rho!r}_{seed}.json"
