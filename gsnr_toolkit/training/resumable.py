"""A training run in a folder of its own: checkpoints while it trains, tables, and a result file at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.device import find_device
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.support.arguments import PATH, WHOLE, Kind, check_arguments, instance
from gsnr_toolkit.support.atomic import read_json, remove_partial_files, write_json, write_text
from gsnr_toolkit.support.locks import locked
from gsnr_toolkit.support.progress import Advance, stage
from gsnr_toolkit.support.provenance import environment
from gsnr_toolkit.support.run_folder import CONFIG, RESULT, read_finished
from gsnr_toolkit.training.checkpoint import (
    load_checkpoint,
    load_model_state,
    model_state,
    save_checkpoint,
    set_random_states,
)
from gsnr_toolkit.training.loop import Callback, StepLog, train
from gsnr_toolkit.types import Batch

__all__ = ["ResumableRun", "check_work", "choose_device", "complete_run"]

_CHECKPOINT = "checkpoint.pt"
_SECONDS = Kind(
    "a number of seconds from 0", lambda value: isinstance(value, Real) and float(value) >= 0, "pass 60, for example"
)


def complete_run(
    config: Any, folder: str | Path, noun: str, make_run: Callable[[Path], ResumableRun], *, progress: bool
) -> dict[str, Any]:
    """Return the results in a folder; train first, from the checkpoint if there is one, unless they exist.

    Args:
        config: The run's config, a :class:`gsnr_toolkit.support.settings.Settings` with ``seed``.
        folder: Where the files of the run go; created if missing.
        noun: The word for the run in error messages, such as ``"training"``.
        make_run: Builds the run for the folder. It is called only if there is something left to train.
        progress: Show a progress bar.

    Returns:
        The content of ``result.json``.

    Raises:
        ProbeError: If the folder holds something else, cannot be written, or another process is working on it.
    """
    check_arguments(folder=(folder, PATH))
    place = Path(folder)
    finished = read_finished(place, config.to_dict(), noun)
    if finished is not None:
        return finished
    with locked(place), preserved_rng(seed=config.seed):
        finished = read_finished(place, config.to_dict(), noun)
        if finished is not None:  # by another process, since the first look
            return finished
        remove_partial_files(place)
        run = make_run(place)
        write_json(place / CONFIG, config.to_dict())
        run.resume()
        run.train(progress=progress)
        return run.finish()


def check_work(config: Any, of: type, checkpoint_seconds: float, num_workers: int) -> None:
    """Check the arguments that all trainings share."""
    check_arguments(
        config=(config, instance(of, f"a {of.__name__}", f"pass {of.__name__}(...)")),
        checkpoint_seconds=(checkpoint_seconds, _SECONDS),
        num_workers=(num_workers, WHOLE),
    )


def choose_device(device: str | None) -> torch.device:
    """Return the named device; the first GPU, or else the CPU, when None."""
    return find_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


class ResumableRun(Callback):
    """A run that continues from its folder's checkpoint, with the same bits as if it had never stopped (on a CPU).

    Subclasses provide :meth:`batches` and :meth:`make_result`, and override the other hooks as needed.

    Args:
        config: The run's config, with ``steps``.
        folder: Where the files of the run go.
        module: What is trained, and saved in checkpoints.
        optimizer: Steps the module's parameters.
        device: Where the module is.
        checkpoint_seconds: Minimum time between two checkpoints; 0 writes one at every step.

    Attributes:
        done: Updates made so far.
        logs: One record per step.
        evals: Rows of ``evals.csv``.
    """

    def __init__(
        self,
        config: Any,
        folder: Path,
        module: nn.Module,
        optimizer: SAM,
        device: torch.device,
        checkpoint_seconds: float,
    ) -> None:
        self.config, self.folder = config, folder
        self.module, self.optimizer, self.device = module, optimizer, device
        self.done = 0
        self.logs: list[StepLog] = []
        self.evals: list[dict[str, Any]] = []
        self._checkpoint_seconds = checkpoint_seconds
        self._earlier_seconds = 0.0  # spent before the checkpoint that this run resumed from
        self._began = self._saved = time.monotonic()
        self._advance: Advance

    def batches(self) -> Iterator[Batch]:
        """Return the batches from step :attr:`done` on."""
        raise NotImplementedError

    def make_result(self) -> dict[str, Any]:
        """Evaluate the trained model and return the content of ``result.json``."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """Label of the progress bar."""
        return "training"

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        raise NotImplementedError

    def extra_state(self) -> dict[str, Any]:
        """Return what else the checkpoint must hold."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Load what :meth:`extra_state` returned, from a whole checkpoint."""

    def observe(self, step: int) -> None:
        """Evaluate or record before a step, if due."""

    def observe_end(self) -> None:
        """Evaluate or record after the last step."""

    def note(self) -> str:
        """Text beside the progress bar."""
        return f"loss {self.logs[-1].loss:.3f}"

    def should_stop(self) -> bool:
        """Whether to end the run early, judged by :attr:`logs`."""
        return False

    def resume(self) -> None:
        """Load the checkpoint, if there is one."""
        path = self.folder / _CHECKPOINT
        if not path.exists():
            return
        state = load_checkpoint(path)
        self._check_state(state, path)
        load_model_state(self.module, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done, self._earlier_seconds = state["step"], state["seconds"]
        self.logs = [StepLog(*row) for row in state["logs"]]
        self.evals = state["evals"]
        self.load_extra_state(state)
        set_random_states(state["random"])  # last: loading may draw random numbers

    def _check_state(self, state: dict[str, Any], path: Path) -> None:
        """Refuse a checkpoint of another run: equal shapes alone would let its weights in."""
        names = ("step", "seconds", "model", "optimizer", "logs", "evals", "random", *self.extra_state())
        missing = [name for name in names if name not in state]
        if missing:
            raise ProbeError(
                f"expected a checkpoint of this program in {path}, but it lacks {', '.join(missing)}; delete the file "
                "to start this run over"
            )
        key = self.config.key
        if state.get("key", key) != key:  # checkpoints of version 0.2.0 have no key
            raise ProbeError(
                f"expected a checkpoint of this run ({key}) in {path}, got one of another run ({state['key']}); delete "
                "the file to start this run over"
            )

    def train(self, *, progress: bool) -> None:
        """Make the remaining steps."""
        self.module.train()
        with stage(self.title, self.config.steps, show=progress) as self._advance:
            self._advance(self.done)
            # A checkpoint may have been written just before a run ended early.
            if self.is_finite() and not self.should_stop():
                self.done = train(
                    self.module,
                    self.optimizer,
                    self.batches(),
                    steps=self.config.steps,
                    start=self.done,
                    learning_rate=self.learning_rate,
                    device=self.device,
                    callbacks=[self],
                )
            self.observe_end()

    def before_step(self, step: int) -> None:
        """Observe, and write a checkpoint if one is due."""
        self.observe(step)
        if step and time.monotonic() - self._saved >= self._checkpoint_seconds:
            self.done = step
            self.save()

    def after_step(self, log: StepLog) -> bool:
        """Keep the record of the step."""
        self.logs.append(log)
        stop = self.should_stop()
        self._advance(1, self.note())
        return stop

    def save(self) -> None:
        """Write the checkpoint and the tables so far."""
        state = {
            "key": self.config.key,
            "step": self.done,
            "seconds": self.elapsed(),
            "model": model_state(self.module),
            "optimizer": self.optimizer.state_dict(),
            "logs": [list(asdict(log).values()) for log in self.logs],
            "evals": self.evals,
            **self.extra_state(),
        }
        save_checkpoint(self.folder / _CHECKPOINT, state)
        self.write_tables()
        self._saved = time.monotonic()

    def write_tables(self) -> None:
        """Write ``log.csv`` and ``evals.csv``."""
        logs = pd.DataFrame([asdict(log) for log in self.logs], columns=[item.name for item in fields(StepLog)])
        write_text(self.folder / "log.csv", logs.to_csv(index=False))
        write_text(self.folder / "evals.csv", pd.DataFrame(self.evals).to_csv(index=False))

    def finish(self) -> dict[str, Any]:
        """Evaluate and write all files. ``result.json`` comes last, because it marks the run as finished.

        Returns:
            The results as they are read from the file.
        """
        result = self.make_result()
        self.write_tables()
        write_json(self.folder / "provenance.json", environment())
        write_json(self.folder / RESULT, result)
        (self.folder / _CHECKPOINT).unlink(missing_ok=True)
        return read_json(self.folder / RESULT)

    def is_finite(self) -> bool:
        """Whether the last loss, if any, is finite."""
        return not self.logs or math.isfinite(self.logs[-1].loss)

    def final_loss(self) -> float:
        """Mean training loss of the last tenth of the steps."""
        losses = [log.loss for log in self.logs]
        return float(np.mean(losses[-max(1, len(losses) // 10) :]))

    def elapsed(self) -> float:
        """Seconds of training so far, those before the checkpoint included."""
        return self._earlier_seconds + time.monotonic() - self._began
