"""One training run from its config: resumed where it broke, recorded, evaluated, and written to a folder."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from gsnr_toolkit.data.loaders import probe_loader
from gsnr_toolkit.inputs.device import find_device
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.inputs.tuning import set_tuning
from gsnr_toolkit.models.registry import build_model
from gsnr_toolkit.probing.recorder import Recorder
from gsnr_toolkit.support.atomic import read_json, write_json, write_text
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
from gsnr_toolkit.training.config import TrainConfig
from gsnr_toolkit.training.diagnosis import PlateauWatch, diagnose
from gsnr_toolkit.training.evaluate import Evaluation, evaluate
from gsnr_toolkit.training.loop import Callback, StepLog, train
from gsnr_toolkit.training.setup import Opened, TrainingData, learning_rate, make_optimizer, open_data

__all__ = ["read_result", "run_training"]

_RECORDED = (
    "cor", "cor_low", "cor_high", "cor_status", "cor_step", "gsnr", "escape_radius", "escape_low", "escape_high",
)  # fmt: skip
_CHECKPOINT = "checkpoint.pt"


def run_training(
    config: TrainConfig,
    folder: str | Path,
    *,
    device: str | None = None,
    progress: bool = False,
    checkpoint_seconds: float = 60.0,
    num_workers: int = 0,
    opened: Opened | None = None,
) -> dict[str, Any]:
    """Train, record and evaluate; go on from the folder's checkpoint if there is one.

    After a kill the run goes on from its last checkpoint as if nothing had happened: on one machine's CPU, with the
    same number of threads, its result is the same bit for bit. The folder holds ``config.json``, ``log.csv`` (by step),
    ``evals.csv``, ``report/`` (GSNR and COR along the run), while it lasts ``checkpoint.pt``, and at last
    ``result.json``. The random states of the caller are left as they were.

    Args:
        config: What to train.
        folder: Where everything goes; made if missing.
        device: Where to train; a GPU if there is one when None.
        progress: Show a bar with loss, validation AUC and COR (on a terminal).
        checkpoint_seconds: Least time between two checkpoints; 0 for one at each step.
        num_workers: Processes that read images; 0 reads in this one.
        opened: A dictionary, empty at first, that several runs of one process are given: a data set that a run has
            opened is then used again by the next one, with the embedded images it has drawn.

    Returns:
        The results: ``key, status`` (``"ok"``, ``"dead"`` or ``"diverged"``)``, steps_done, train_loss`` (mean of the
        last tenth), ``test_auc`` with its 95 % interval, ``val_auc``, ``best_val_auc``, ``cor``, ``escape_radius`` and
        others; NaN where a thing was not measured.

    Raises:
        ProbeError: If the folder holds a run of another config, or something of the config cannot be had.
    """
    place = Path(folder)
    finished = read_result(place, config)
    if finished is not None:
        return finished
    with preserved_rng(seed=config.seed):
        run = _Run(config, place, device, checkpoint_seconds, num_workers, opened)
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / CONFIG, config.to_dict())
        run.resume()
        run.train(progress=progress)
        return run.finish()


def read_result(folder: str | Path, config: TrainConfig) -> dict[str, Any] | None:
    """Read the results of a finished run.

    Args:
        folder: What :func:`run_training` wrote to.
        config: What was trained there.

    Returns:
        The results; None if there is no run yet, or an unfinished one.

    Raises:
        ProbeError: If the folder holds a run of another config, or files of something else.
    """
    return read_finished(Path(folder), config.to_dict(), "run")


class _Run(Callback):
    """A run under way."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        device: str | None,
        checkpoint_seconds: float,
        num_workers: int,
        opened: Opened | None,
    ) -> None:
        self.config, self.folder = config, folder
        self.device = find_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model: nn.Module = build_model(config.model, weights=config.weights, seed=config.seed).to(self.device)
        set_tuning(self.model, config.tuning)
        self.data: TrainingData = open_data(config, self.model, opened)
        self.recorder = self._make_recorder()
        self.optimizer = make_optimizer(config, self.model, self._probe())
        self.watch = PlateauWatch(config.stop_dead)
        self.done, self.seconds = 0, 0.0
        self.logs: list[StepLog] = []
        self.evals: list[dict[str, Any]] = []
        self._num_workers = num_workers
        self._checkpoint_seconds, self._saved = checkpoint_seconds, time.monotonic()
        self._began = time.monotonic()
        self._advance: Advance | None = None

    def _probe(self) -> Any:
        config = self.config
        return probe_loader(self.data.val, config.record_samples, config.batch_size)

    def _make_recorder(self) -> Recorder | None:
        config = self.config
        if not config.record_every:
            return None
        settings = {"config": config.to_dict(), "model": config.model, "data": config.data}
        return Recorder(
            self.model,
            self._probe(),
            every=config.record_every,
            device=self.device,
            extra_settings={**settings, "caption": self.data.val.caption, "tuning": config.tuning},
            batch_size=config.batch_size,
            detail="group",
        )

    def resume(self) -> None:
        """Take up the checkpoint, if there is one."""
        path = self.folder / _CHECKPOINT
        if not path.exists():
            return
        state = load_checkpoint(path)
        load_model_state(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.watch.load_state_dict(state["watch"])
        if self.recorder is not None:
            self.recorder.load_state_dict(state["recorder"])
        self.done, self.seconds = state["step"], state["seconds"]
        self.logs = [StepLog(*row) for row in state["logs"]]
        self.evals = state["evals"]
        set_random_states(state["random"])

    def train(self, *, progress: bool) -> None:
        """Make the steps that are left."""
        config = self.config
        batches = self.data.batches(start=self.done, num_workers=self._num_workers)
        self.model.train()
        with stage(f"{config.data}, rho {config.rho}", config.steps, show=progress) as self._advance:
            self._advance(self.done)
            if not self._over():
                self.done = train(
                    self.model,
                    self.optimizer,
                    batches,
                    steps=config.steps,
                    start=self.done,
                    learning_rate=partial(learning_rate, config),
                    device=self.device,
                    callbacks=[self],
                )
            if self.recorder is not None and self.recorder.steps[-1:] != [self.done] and self._finite():
                self.recorder.measure(self.done)

    def before_step(self, step: int) -> None:
        """Record, evaluate and save, where that is due."""
        if self.recorder is not None:
            self.recorder(step)
        if self.config.eval_every and step and step % self.config.eval_every == 0 and not self._evaluated(step):
            self.evals.append(self._evaluate("val", step)[1])
        if step and time.monotonic() - self._saved >= self._checkpoint_seconds:
            self.done = step
            self.save()

    def after_step(self, log: StepLog) -> bool:
        """Keep the step's numbers; end a run that is dead for long."""
        self.logs.append(log)
        self.watch.add(log.loss)
        if self._advance is not None:
            self._advance(1, self._note(log))
        return self.watch.hopeless

    def save(self) -> None:
        """Write the checkpoint, and the tables so far."""
        state = {
            "step": self.done,
            "seconds": self._elapsed(),
            "model": model_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "watch": self.watch.state_dict(),
            "recorder": None if self.recorder is None else self.recorder.state_dict(),
            "logs": [list(asdict(log).values()) for log in self.logs],
            "evals": self.evals,
        }
        save_checkpoint(self.folder / _CHECKPOINT, state)
        self._write_tables()
        self._saved = time.monotonic()

    def finish(self) -> dict[str, Any]:
        """Evaluate, and write everything; the results come last.

        Returns:
            The results.
        """
        row = self._row()
        self._write_tables()
        write_json(self.folder / "provenance.json", environment())
        write_json(self.folder / RESULT, row)
        (self.folder / _CHECKPOINT).unlink(missing_ok=True)
        return read_json(self.folder / RESULT)

    def _row(self) -> dict[str, Any]:
        config = self.config
        val = self._evaluated(self.done) or self._evaluate("val", self.done)[1]
        test, row = self._evaluate("test", self.done)
        self.evals += [item for item in (val, row) if item not in self.evals]
        vals = [item for item in self.evals if item["split"] == "val" and not math.isnan(item["auc"])]
        best = max(vals, key=lambda item: item["auc"], default=val)
        losses = [log.loss for log in self.logs]
        others = {f"auc:{name}": self._evaluate(name, self.done)[1]["auc"] for name in config.eval_data}
        return {
            "key": config.key,
            "status": _status(losses, test.logit_std),
            "steps_done": self.done,
            "train_loss": float(np.mean(losses[-max(1, len(losses) // 10) :])),
            "test_auc": test.auc.value,
            "test_auc_low": test.auc.low,
            "test_auc_high": test.auc.high,
            "num_test": test.auc.count,
            "test_loss": test.loss,
            "logit_std": test.logit_std,
            "val_auc": val["auc"],
            "best_val_auc": best["auc"],
            "best_val_step": best["step"],
            **others,
            "rho_last": self.logs[-1].rho if self.logs else math.nan,
            **self._recorded(),
            "seconds": round(self._elapsed(), 1),
            "device": str(self.device),
        }

    def _recorded(self) -> dict[str, Any]:
        if self.recorder is None:
            return dict.fromkeys(_RECORDED, math.nan)
        report = self.recorder.report
        total, escape = report.total, report.escape
        values = (total["cor"], total["cor_low"], total["cor_high"], total["status"], int(total["step"]), total["gsnr"])
        radius = (math.nan,) * 3 if escape is None else (escape.value, escape.low, escape.high)
        return dict(zip(_RECORDED, (*values, *radius), strict=True))

    def _evaluate(self, what: str, step: int) -> tuple[Evaluation, dict[str, Any]]:
        dataset = self.data.test_set(what)
        with preserved_rng():
            # one image of each source at most: others would not be independent
            count = min(self.config.eval_samples, dataset.records["source"].nunique())
            loader = probe_loader(dataset, count, 250, num_workers=self._num_workers)
            found = evaluate(self.model, loader, self.device)
        values = {"auc": found.auc.value, "auc_low": found.auc.low, "auc_high": found.auc.high, "n": found.auc.count}
        scores = {"loss": found.loss, "logit_std": found.logit_std}
        return found, {"step": step, "split": what, "data": dataset.name, **values, **scores}

    def _evaluated(self, step: int) -> dict[str, Any] | None:
        return next((item for item in self.evals if item["step"] == step and item["split"] == "val"), None)

    def _write_tables(self) -> None:
        logs = pd.DataFrame([asdict(log) for log in self.logs], columns=list(StepLog.__dataclass_fields__))
        write_text(self.folder / "log.csv", logs.to_csv(index=False))
        write_text(self.folder / "evals.csv", pd.DataFrame(self.evals).to_csv(index=False))
        if self.recorder is not None and self.recorder.steps:
            self.recorder.report.save(self.folder / "report", overwrite=True)

    def _note(self, log: StepLog) -> str:
        parts = [f"loss {log.loss:.3f}"]
        vals = [item["auc"] for item in self.evals if item["split"] == "val"]
        parts += [f"AUC {vals[-1]:.3f}"] if vals else []
        if self.recorder is not None and self.recorder.steps:
            parts.append(f"COR {self.recorder.report.totals['cor'].iloc[-1]:.2g}")
        diagnosis = diagnose(self.watch.losses)
        return "  ".join([*parts, *(["on the plateau"] if diagnosis.status == "dead" else [])])

    def _over(self) -> bool:
        return self.watch.hopeless or not self._finite()

    def _finite(self) -> bool:
        return not self.logs or math.isfinite(self.logs[-1].loss)

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self._began


def _status(losses: list[float], logit_std: float) -> str:
    found = diagnose(losses, logit_std).status
    return found if found in ("dead", "diverged") else "ok"
