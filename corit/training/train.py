"""One training of a detector: resumed after a kill, validated, tested and written to a folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
from corit.training.tasks import FeatureTask, make_task
from gsnr_toolkit.estimators.auc import auc
from gsnr_toolkit.inputs.modes import in_eval_mode
from gsnr_toolkit.optim.learning_rate import cosine_decay
from gsnr_toolkit.optim.margin import MarginRadius
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.support.arguments import PATH, WHOLE, check_arguments, optional
from gsnr_toolkit.support.atomic import write_text
from gsnr_toolkit.training.checkpoint import load_model_state, model_state
from gsnr_toolkit.training.config import AUTO
from gsnr_toolkit.training.resumable import ResumableRun, check_work, choose_device, complete_run
from gsnr_toolkit.types import Batch

__all__ = ["train_detector"]


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
    """Train a detector; test its weights at the step with the best validation AUC ("selected") and at the last step.

    Called again, it resumes from the checkpoint, or reads the results of a finished training. On the CPU of one
    machine, with the same number of threads, a resumed training ends with the same bits as an uninterrupted one. The
    folder holds ``config.json``, ``log.csv`` (one row per step), ``evals.csv`` (validation), ``selected.safetensors``
    and ``last.safetensors``, ``results.csv`` (every measure on every test set, for both), ``checkpoint.pt`` until the
    training ends, and finally ``result.json``.

    Args:
        config: What to train.
        folder: Where all files go; created if missing.
        device: Where to train; the first GPU, or else the CPU, when None.
        cache: Folder for cached features of frozen encoders; None keeps them in memory only.
        draws: Bootstrap draws for the intervals.
        progress: Show progress bars (on a terminal).
        checkpoint_seconds: Minimum time between two checkpoints; 0 writes one at every step.
        num_workers: Processes that load images.

    Returns:
        The results: ``key, steps, selected_step, train_loss`` (mean of the last tenth)``, val_auc_selected,
        val_auc_last``, ``test`` (AUC by frame and by video with intervals, by selection and data set), and others.

    Raises:
        ProbeError: If the folder holds another training, or the encoder or data of the config are not available.
    """
    check_work(config, DetectorTraining, checkpoint_seconds, num_workers)
    check_arguments(draws=(draws, WHOLE), cache=(cache, optional(PATH)))

    def make_run(place: Path) -> _Run:
        chosen = choose_device(device)
        return _Run(config, place, chosen, checkpoint_seconds, cache, draws, num_workers, progress)

    return complete_run(config, folder, "training", make_run, progress=progress)


class _Run(ResumableRun):
    """A training in progress."""

    def __init__(
        self,
        config: DetectorTraining,
        folder: Path,
        device: torch.device,
        checkpoint_seconds: float,
        cache: str | Path | None,
        draws: int,
        num_workers: int,
        progress: bool,
    ) -> None:
        self.task = make_task(config, device, cache=cache, num_workers=num_workers, progress=progress)
        whole: Any = self.task.model
        self.pretrained = encoder_hash(whole.encoder)  # now, because some methods train the encoder
        self.best: dict[str, Tensor] = {}
        self._cache, self._draws, self._num_workers, self._progress = cache, draws, num_workers, progress
        trainable = [param for param in self.task.module.parameters() if param.requires_grad]
        # every batch holds both classes equally
        rho = MarginRadius(math.log(2), rho_max=config.rho_max) if config.rho == AUTO else float(config.rho)
        optimizer = SAM(
            trainable, torch.optim.AdamW, rho=rho, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        super().__init__(config, folder, self.task.module, optimizer, device, checkpoint_seconds)

    @property
    def title(self) -> str:
        return f"{self.config.method}, {self.config.data}, rho {self.config.rho}"

    def batches(self) -> Iterator[Batch]:
        return self.task.batches(self.done)

    def learning_rate(self, step: int) -> float:
        factor = 1.0 if self.config.lr_schedule == "constant" else cosine_decay(step, self.config.steps)
        return self.config.learning_rate * factor

    def extra_state(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def observe(self, step: int) -> None:
        """Validate, if due."""
        if step and step % self.config.eval_every == 0:
            self._validate(step)

    def observe_end(self) -> None:
        self._validate(self.done)

    def note(self) -> str:
        return super().note() + (f"  validation AUC {self.evals[-1]['auc']:.3f}" if self.evals else "")

    def _validate(self, step: int) -> None:
        """Add a row to ``evals.csv`` unless it exists; keep the weights if they are the best so far."""
        if any(row["step"] == step for row in self.evals):
            return
        with in_eval_mode(self.task.model):
            logits = self.task.val_logits()
        labels = self.task.val.labels
        values = (math.nan,) * 3
        if np.isfinite(logits).all():
            found = auc(logits[labels == 0], logits[labels == 1])
            values = (found.value, found.low, found.high)
        known = [row["auc"] for row in self.evals if not math.isnan(row["auc"])]
        self.evals.append(
            {"step": step, **dict(zip(("auc", "auc_low", "auc_high"), values, strict=True)), "n": len(labels)}
        )
        if not self.best or values[0] > max(known, default=-math.inf):
            self.best = {name: tensor.clone() for name, tensor in model_state(self.module).items()}

    def make_result(self) -> dict[str, Any]:
        """Save and test both sets of weights, write ``results.csv``, and return the content of ``result.json``."""
        # The best AUC; of equal ones the earliest step.
        selected = max(self.evals, key=lambda row: (-math.inf if math.isnan(row["auc"]) else row["auc"], -row["step"]))
        rows = {"last": self.evals[-1], "selected": selected}
        tables = [
            self._save_and_test(selection, row)
            for selection, row in rows.items()
            if not math.isnan(row["auc"])  # weights that are not finite are no detector
        ]
        table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
        write_text(self.folder / "results.csv", table.to_csv(index=False))
        aucs = table[table["measure"] == "auc"]
        keys = ("selection", "data", "level", "value", "low", "high", "real", "fake")
        return {
            "key": self.config.key,
            "method": self.config.method,
            "steps": self.done,
            "status": "ok" if all(math.isfinite(log.loss) for log in self.logs) else "diverged",
            "train_loss": self.final_loss(),
            "selected_step": rows["selected"]["step"],
            "val_auc_selected": rows["selected"]["auc"],
            "val_auc_last": rows["last"]["auc"],
            "test": aucs[list(keys)].to_dict("records"),
            "seconds": round(self.elapsed(), 1),
            "device": str(self.device),
        }

    def _save_and_test(self, selection: str, row: dict[str, Any]) -> pd.DataFrame:
        """Write the weights of a selection to a file; return its scores on all test sets."""
        if selection == "selected":
            load_model_state(self.module, self.best)
        path = self.folder / f"{selection}.safetensors"
        training = {**self.config.to_dict(), "selection": selection, "step": row["step"], "val_auc": row["auc"]}
        training["reference"] = self._reference()
        save_trained(self.task.model, path, training, self.pretrained)
        trained = Trained(self.task.model, training, path)
        maker = None
        if isinstance(self.task, FeatureTask):
            maker = FeatureMaker(self.task.model, self._cache, device=self.device, num_workers=self._num_workers)
        with in_eval_mode(self.task.model):
            tables = [
                evaluate_detector(
                    trained,
                    open_evaluation(self.config, name, trained.spec),
                    maker=maker,
                    draws=self._draws,
                    device=self.device,
                    num_workers=self._num_workers,
                    progress=self._progress,
                ).table
                for name in dict.fromkeys((self.config.data, *self.config.eval_data))
            ]
        return pd.concat(tables, ignore_index=True)

    def _reference(self) -> list[list[float]] | None:
        """Mean contribution of each vector to the logit, over the validation images; None for other detectors."""
        if not (isinstance(self.task, FeatureTask) and isinstance(self.task.model, CoRIT)):
            return None
        parts = contributions(self.task.model, self.task.val_features.to(self.device))
        return parts.double().mean(0).tolist()
