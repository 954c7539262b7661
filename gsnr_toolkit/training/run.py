"""One training run from its config: trained, measured, evaluated and written to a folder; resumed after a kill."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from gsnr_toolkit.data.loaders import probe_loader
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.inputs.tuning import set_tuning
from gsnr_toolkit.models.registry import build_model
from gsnr_toolkit.probing.recorder import Recorder
from gsnr_toolkit.support.arguments import check_arguments, instance, optional
from gsnr_toolkit.support.run_folder import read_finished
from gsnr_toolkit.training.config import TrainConfig
from gsnr_toolkit.training.diagnosis import ON_PLATEAU, PLATEAU, PlateauWatch, outcome
from gsnr_toolkit.training.evaluate import Evaluation, evaluate
from gsnr_toolkit.training.loop import StepLog
from gsnr_toolkit.training.resumable import ResumableRun, check_work, choose_device, complete_run
from gsnr_toolkit.training.setup import Opened, learning_rate, make_optimizer, open_data
from gsnr_toolkit.types import Batch, Loader

__all__ = ["read_result", "run_training"]

_RECORDED = (
    "cor", "cor_low", "cor_high", "cor_status", "cor_step", "gsnr", "escape_radius", "escape_low", "escape_high",
)  # fmt: skip


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
    """Train, measure and evaluate; resume from the folder's checkpoint if there is one.

    A run that was killed resumes from its last checkpoint. On the CPU of one machine, with the same number of threads,
    its result is then identical bit for bit to that of an uninterrupted run. The folder holds ``config.json``,
    ``log.csv`` (one row per step), ``evals.csv``, ``report/`` (GSNR and COR along the run), ``checkpoint.pt`` until the
    run ends, and finally ``result.json``. The caller's random states do not change.

    Args:
        config: What to train.
        folder: Where all files go; created if missing.
        device: Where to train; the first GPU, or else the CPU, when None.
        progress: Show a bar with loss, validation AUC and COR (on a terminal).
        checkpoint_seconds: Minimum time between two checkpoints; 0 writes one at every step.
        num_workers: Processes that load images; 0 loads in this process.
        opened: Shares data sets between the runs of one process. Pass the same dictionary, empty at first, to all of
            them: each data set is then opened, and its embedded images drawn, only once.

    Returns:
        The results: ``key, status`` (``"ok"``; ``"dead"``: on the plateau of ln 2 at the end; or ``"diverged"``)``,
        outcome, left_at, steps_on_plateau`` (:mod:`gsnr_toolkit.training.diagnosis`; the horizon is the end of the
        run)``, steps_done, train_loss`` (mean of the last tenth), ``test_auc`` with its 95 % interval, ``val_auc``,
        ``best_val_auc``, ``cor``, ``escape_radius`` and others; NaN for what was not measured.

    Raises:
        ProbeError: If the folder holds a run of another config, or the model or data of the config are not available.
    """
    check_work(config, TrainConfig, checkpoint_seconds, num_workers)
    check_arguments(opened=(opened, optional(instance(dict, "a dictionary", "pass an empty one, {}"))))
    return complete_run(
        config,
        folder,
        "run",
        lambda place: _Run(config, place, device, checkpoint_seconds, num_workers, opened),
        progress=progress,
    )


def read_result(folder: str | Path, config: TrainConfig) -> dict[str, Any] | None:
    """Read the results of a finished run.

    Args:
        folder: The folder passed to :func:`run_training`.
        config: What was trained there.

    Returns:
        The results; None if the run does not exist or is not finished.

    Raises:
        ProbeError: If the folder holds a run of another config, or unrelated files.
    """
    return read_finished(Path(folder), config.to_dict(), "run")


class _Run(ResumableRun):
    """A run in progress."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        device: str | None,
        checkpoint_seconds: float,
        num_workers: int,
        opened: Opened | None,
    ) -> None:
        place = choose_device(device)
        model: nn.Module = build_model(config.model, weights=config.weights, seed=config.seed).to(place)
        set_tuning(model, config.tuning)
        self.data = open_data(config, model, opened)
        probe = probe_loader(self.data.val, config.record_samples, config.batch_size)
        self.recorder = self._make_recorder(config, model, probe)
        self.watch = PlateauWatch(PLATEAU, patience=config.stop_dead)
        self._num_workers = num_workers
        optimizer = make_optimizer(config, model, probe)
        optimizer.watch_norm = True  # tells plain runs that sink; costs one norm
        super().__init__(config, folder, model, optimizer, place, checkpoint_seconds)

    def _make_recorder(self, config: TrainConfig, model: nn.Module, probe: Loader) -> Recorder | None:
        if not config.record_every:
            return None
        settings = {"config": config.to_dict(), "model": config.model, "data": config.data}
        return Recorder(
            model,
            probe,
            every=config.record_every,
            device=next(model.parameters()).device,
            extra_settings={**settings, "caption": self.data.val.caption, "tuning": config.tuning},
            batch_size=config.batch_size,
            detail="group",
        )

    @property
    def title(self) -> str:
        return f"{self.config.data}, rho {self.config.rho}"

    def batches(self) -> Iterator[Batch]:
        return self.data.batches(start=self.done, num_workers=self._num_workers)

    def learning_rate(self, step: int) -> float:
        return learning_rate(self.config, step)

    def extra_state(self) -> dict[str, Any]:
        recorder = None if self.recorder is None else self.recorder.state_dict()
        return {"recorder": recorder}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        for log in self.logs:  # the watch follows from the records, those of earlier versions included
            self.watch.add(log.loss, log.grad_norm)
        if self.recorder is not None:
            self.recorder.load_state_dict(state["recorder"])

    def observe(self, step: int) -> None:
        """Measure GSNR and COR, and validate, if due."""
        if self.recorder is not None:
            self.recorder(step)
        every = self.config.eval_every
        if every and step and step % every == 0 and self._validated(step) is None:
            self.evals.append(self._evaluate("val", step)[1])

    def observe_end(self) -> None:
        """Measure GSNR and COR of the final weights."""
        if self.recorder is not None and self.recorder.steps[-1:] != [self.done] and self.is_finite():
            self.recorder.measure(self.done)

    def after_step(self, log: StepLog) -> bool:
        self.watch.add(log.loss, log.grad_norm)
        return super().after_step(log)

    def should_stop(self) -> bool:
        return self.watch.hopeless

    def note(self) -> str:
        parts = [super().note()]
        vals = [item["auc"] for item in self.evals if item["split"] == "val"]
        parts += [f"AUC {vals[-1]:.3f}"] if vals else []
        if self.recorder is not None and self.recorder.steps:
            parts.append(f"COR {self.recorder.report.totals['cor'].iloc[-1]:.2g}")
        return "  ".join([*parts, self.watch.state.replace("_", " ")])

    def write_tables(self) -> None:
        super().write_tables()
        if self.recorder is not None and self.recorder.steps:
            self.recorder.report.save(self.folder / "report", overwrite=True)

    def make_result(self) -> dict[str, Any]:
        config = self.config
        val = self._validated(self.done) or self._evaluate("val", self.done)[1]
        test, row = self._evaluate("test", self.done)
        self.evals += [item for item in (val, row) if item not in self.evals]
        vals = [item for item in self.evals if item["split"] == "val" and not math.isnan(item["auc"])]
        best = max(vals, key=lambda item: item["auc"], default=val)
        others = {f"auc:{name}": self._evaluate(name, self.done)[1]["auc"] for name in config.eval_data}
        return {
            "key": config.key,
            "status": self._status(),
            "outcome": outcome(self.watch, horizon_steps=config.steps),
            "left_at": math.nan if self.watch.left_at is None else self.watch.left_at,
            "steps_on_plateau": self.watch.steps_on_plateau,
            "steps_done": self.done,
            "train_loss": self.final_loss(),
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
            "seconds": round(self.elapsed(), 1),
            "device": str(self.device),
        }

    def _status(self) -> str:
        if self.watch.state == "diverged":
            return "diverged"
        return "dead" if self.watch.state in ON_PLATEAU else "ok"

    def _recorded(self) -> dict[str, Any]:
        if self.recorder is None:
            return dict.fromkeys(_RECORDED, math.nan)
        report = self.recorder.report
        total, escape = report.total, report.escape
        values = (total["cor"], total["cor_low"], total["cor_high"], total["status"], int(total["step"]), total["gsnr"])
        radius = (math.nan,) * 3 if escape is None else (escape.value, escape.low, escape.high)
        return dict(zip(_RECORDED, (*values, *radius), strict=True))

    def _evaluate(self, what: str, step: int) -> tuple[Evaluation, dict[str, Any]]:
        """Evaluate on "val", "test" or another data set; return the scores and the row of ``evals.csv``."""
        dataset = self.data.test_set(what)
        with preserved_rng():  # evaluating must not change the random numbers of the training
            # At most one image per source: several of one source would not be independent.
            count = min(self.config.eval_samples, dataset.records["source"].nunique())
            loader = probe_loader(dataset, count, 250, num_workers=self._num_workers)
            found = evaluate(self.module, loader, self.device)
        values = {"auc": found.auc.value, "auc_low": found.auc.low, "auc_high": found.auc.high, "n": found.auc.count}
        scores = {"loss": found.loss, "logit_std": found.logit_std}
        return found, {"step": step, "split": what, "data": dataset.name, **values, **scores}

    def _validated(self, step: int) -> dict[str, Any] | None:
        return next((item for item in self.evals if item["step"] == step and item["split"] == "val"), None)
