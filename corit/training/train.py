"""One training of a detector: cached or direct, resumed where it broke, validated, tested, written to a folder."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from corit.model.contributions import contributions
from corit.model.detector import CoRIT
from corit.model.features import FeatureMaker
from corit.model.head_files import encoder_hash
from corit.model.trained import Trained, save_trained
from corit.scoring.evaluate import COLUMNS, evaluate_detector
from corit.training.config import DetectorTraining
from corit.training.data import open_evaluation
from corit.training.tasks import FeatureTask, Task, make_task
from gsnr_toolkit.estimators.auc import auc
from gsnr_toolkit.inputs.device import find_device
from gsnr_toolkit.inputs.preserve import in_eval_mode, preserved_rng
from gsnr_toolkit.optim.sam import SAM
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
from gsnr_toolkit.training.loop import Callback, StepLog, train

__all__ = ["SELECTIONS", "train_detector"]

_CHECKPOINT = "checkpoint.pt"

#: Which weights of a training are kept.
SELECTIONS = {"selected": "the step with the best validation AUC", "last": "the last step"}


def train_detector(
    config: DetectorTraining,
    folder: str | Path,
    *,
    device: str | None = None,
    cache: str | Path | None = None,
    draws: int = 1000,
    progress: bool = False,
    checkpoint_seconds: float = 60.0,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Train a detector and test it, both as chosen on validation data and as it is at the end.

    The same call goes on from a checkpoint, and reads a finished training; on one machine's CPU, with the same number
    of threads, a training that was broken off ends the same bit for bit. The folder holds ``config.json``, ``log.csv``
    (by step), ``evals.csv`` (validation), ``selected.safetensors`` and ``last.safetensors``, ``results.csv`` (every
    measure on every test set, of both), while it lasts ``checkpoint.pt``, and at last ``result.json``.

    Args:
        config: What to train.
        folder: Where everything goes; made if missing.
        device: Where to train; a GPU if there is one when None.
        cache: Folder of cached features of frozen encoders; None keeps them in memory alone.
        draws: Bootstrap draws of the intervals.
        progress: Show bars (on a terminal).
        checkpoint_seconds: Least time between two checkpoints; 0 for one at each step.
        num_workers: Processes that read images.

    Returns:
        The results: ``key, steps, selected_step, train_loss`` (mean of the last tenth)``, val_auc_selected,
        val_auc_last``, ``test`` (AUC by frame and by video with intervals, by selection and data set), and others.

    Raises:
        ProbeError: If the folder holds another training, or something of the config cannot be had.
    """
    place = Path(folder)
    finished = read_finished(place, config.to_dict(), "training")
    if finished is not None:
        return finished
    with preserved_rng(seed=config.seed):
        chosen = find_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        task = make_task(config, chosen, cache=cache, num_workers=num_workers, progress=progress)
        run = _Run(config, place, task, chosen, checkpoint_seconds)
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / CONFIG, config.to_dict())
        run.resume()
        run.train(progress=progress)
        return run.finish(cache=cache, draws=draws, num_workers=num_workers, progress=progress)


class _Run(Callback):
    """A training under way."""

    def __init__(
        self, config: DetectorTraining, folder: Path, task: Task, device: torch.device, checkpoint_seconds: float
    ) -> None:
        self.config, self.folder, self.task, self.device = config, folder, task, device
        whole: Any = task.model
        self.pretrained = encoder_hash(whole.encoder)  # before the first step changes it
        trainable = [param for param in task.module.parameters() if param.requires_grad]
        self.optimizer = SAM(
            trainable, torch.optim.AdamW, rho=config.rho, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.done, self.seconds = 0, 0.0
        self.logs: list[StepLog] = []
        self.evals: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self._every, self._saved, self._began = checkpoint_seconds, time.monotonic(), time.monotonic()
        self._advance: Advance | None = None

    def resume(self) -> None:
        """Take up the checkpoint, if there is one."""
        path = self.folder / _CHECKPOINT
        if not path.exists():
            return
        state = load_checkpoint(path)
        load_model_state(self.task.module, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.evals = state["best"], state["evals"]
        self.done, self.seconds = state["step"], state["seconds"]
        self.logs = [StepLog(*row) for row in state["logs"]]
        set_random_states(state["random"])

    def train(self, *, progress: bool) -> None:
        """Make the steps that are left."""
        config, task = self.config, self.task
        task.module.train()
        with stage(f"{config.method}, {config.data}, rho {config.rho:g}", config.steps, show=progress) as self._advance:
            self._advance(self.done)
            if not self.logs or math.isfinite(self.logs[-1].loss):
                self.done = train(
                    task.module,
                    self.optimizer,
                    task.batches(self.done),
                    steps=config.steps,
                    start=self.done,
                    learning_rate=self._learning_rate,
                    device=self.device,
                    callbacks=[self],
                )
            self._validate(self.done)

    def _learning_rate(self, step: int) -> float:
        config = self.config
        if config.lr_schedule == "constant":
            return config.learning_rate
        return config.learning_rate * (1 + math.cos(math.pi * step / config.steps)) / 2

    def before_step(self, step: int) -> None:
        """Validate and save, where that is due."""
        if step and step % self.config.eval_every == 0:
            self._validate(step)
        if step and time.monotonic() - self._saved >= self._every:
            self.done = step
            self.save()

    def after_step(self, log: StepLog) -> bool:
        """Keep the step's numbers."""
        self.logs.append(log)
        if self._advance is not None:
            vals = f"  validation AUC {self.evals[-1]['auc']:.3f}" if self.evals else ""
            self._advance(1, f"loss {log.loss:.3f}{vals}")
        return False

    def _validate(self, step: int) -> None:
        if any(row["step"] == step for row in self.evals):
            return
        with in_eval_mode(self.task.model):
            logits = self.task.val_logits()
        labels = self.task.val.labels
        finite = bool(np.isfinite(logits).all())
        found = auc(logits[labels == 0], logits[labels == 1]) if finite else None
        values = (math.nan,) * 3 if found is None else (found.value, found.low, found.high)
        known = [row["auc"] for row in self.evals if not math.isnan(row["auc"])]
        self.evals.append(
            {"step": step, **dict(zip(("auc", "auc_low", "auc_high"), values, strict=True)), "n": len(labels)}
        )
        if not self.best or values[0] > max(known, default=-math.inf):
            self.best = {name: tensor.clone() for name, tensor in model_state(self.task.module).items()}

    def save(self) -> None:
        """Write the checkpoint, and the tables so far."""
        state = {
            "step": self.done,
            "seconds": self._elapsed(),
            "model": model_state(self.task.module),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "logs": [list(asdict(log).values()) for log in self.logs],
            "evals": self.evals,
        }
        save_checkpoint(self.folder / _CHECKPOINT, state)
        self._write_tables()
        self._saved = time.monotonic()

    def finish(self, *, cache: str | Path | None, draws: int, num_workers: int, progress: bool) -> dict[str, Any]:
        """Test both weights and write everything; the results come last.

        Returns:
            The results.
        """
        selected = max(self.evals, key=lambda row: (-math.inf if math.isnan(row["auc"]) else row["auc"], -row["step"]))
        rows = {"last": self.evals[-1], "selected": selected}
        tables = []
        for selection, row in rows.items():
            if math.isnan(row["auc"]):
                continue  # weights that are not finite are no detector
            if selection == "selected":
                load_model_state(self.task.module, self.best)
            path = self.folder / f"{selection}.safetensors"
            training = {**self.config.to_dict(), "selection": selection, "step": row["step"], "val_auc": row["auc"]}
            training["reference"] = self._reference()
            save_trained(self.task.model, path, training, self.pretrained)
            trained = Trained(self.task.model, training, path)
            with in_eval_mode(self.task.model):
                tables.append(self._test(trained, draws, cache, num_workers, progress=progress))
        table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
        self._write_tables()
        write_text(self.folder / "results.csv", table.to_csv(index=False))
        write_json(self.folder / "provenance.json", environment())
        write_json(self.folder / RESULT, self._result(rows, table))
        (self.folder / _CHECKPOINT).unlink(missing_ok=True)
        return read_json(self.folder / RESULT)

    def _test(
        self, trained: Trained, draws: int, cache: str | Path | None, num_workers: int, *, progress: bool
    ) -> pd.DataFrame:
        names = dict.fromkeys((self.config.data, *self.config.eval_data))
        maker = None
        if isinstance(self.task, FeatureTask):
            maker = FeatureMaker(self.task.model, cache, device=self.device, num_workers=num_workers)
        tables = [
            evaluate_detector(
                trained,
                open_evaluation(self.config, name, trained.spec),
                maker=maker,
                draws=draws,
                device=self.device,
                num_workers=num_workers,
                progress=progress,
            ).table
            for name in names
        ]
        return pd.concat(tables, ignore_index=True)

    def _reference(self) -> list[list[float]] | None:
        """What each vector adds to the logit on average over the validation images."""
        if not (isinstance(self.task, FeatureTask) and isinstance(self.task.model, CoRIT)):
            return None
        parts = contributions(self.task.model, self.task.val_features.to(self.device))
        return parts.double().mean(0).tolist()

    def _result(self, rows: dict[str, dict[str, Any]], table: pd.DataFrame) -> dict[str, Any]:
        losses = [log.loss for log in self.logs]
        aucs = table[table["measure"] == "auc"]
        keys = ("selection", "data", "level", "value", "low", "high", "real", "fake")
        return {
            "key": self.config.key,
            "method": self.config.method,
            "steps": self.done,
            "status": "ok" if all(math.isfinite(loss) for loss in losses) else "diverged",
            "train_loss": float(np.mean(losses[-max(1, len(losses) // 10) :])),
            "selected_step": rows["selected"]["step"],
            "val_auc_selected": rows["selected"]["auc"],
            "val_auc_last": rows["last"]["auc"],
            "test": aucs[list(keys)].to_dict("records"),
            "seconds": round(self._elapsed(), 1),
            "device": str(self.device),
        }

    def _write_tables(self) -> None:
        logs = pd.DataFrame([asdict(log) for log in self.logs], columns=list(StepLog.__dataclass_fields__))
        write_text(self.folder / "log.csv", logs.to_csv(index=False))
        write_text(self.folder / "evals.csv", pd.DataFrame(self.evals).to_csv(index=False))

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self._began
