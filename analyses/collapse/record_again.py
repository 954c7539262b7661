"""Plain runs repeated, bit for bit on one CPU, with a second recorder: other samples, other quantities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from analyses.collapse.laboratory import run_folder
from analyses.collapse.replay import Watcher, replay
from analyses.support.processes import spread
from gsnr_toolkit import Report, TrainConfig
from gsnr_toolkit.data.loaders import probe_loader
from gsnr_toolkit.probing.recorder import Recorder
from gsnr_toolkit.training.loop import StepLog
from gsnr_toolkit.training.setup import TrainingData


@dataclass(frozen=True)
class Again:
    """Options of the second recorder.

    Attributes:
        folder: Name of the folder of the reports, beside the runs.
        layerwise: Reading of "layer-wise", as in :class:`gsnr_toolkit.Recorder`.
        split: ``"val"`` for the samples of the first recorder, ``"test"`` for as many others.
        cor: Record COR as well as GSNR.
        lipschitz: Record the largest eigenvalue of the Hessian too. It costs as much as a hundred training steps and is
            therefore recorded only at the step at which the first record has its smallest COR.
    """

    folder: str
    layerwise: str = "parameters"
    split: str = "val"
    cor: bool = True
    lipschitz: bool = False


def record_again(
    configs: Sequence[TrainConfig], again: Again, runs: Path, *, workers: int, device: str | None
) -> list[Report]:
    """Repeat the plain runs whose second report does not exist yet; return a report for each config."""
    missing = [config for config in configs if kept_record(config, again, runs) is None]
    if missing:
        spread(partial(_record, again=again, runs=runs, device=device), missing, workers=workers)
    return [Report.load(_folder(config, again, runs)) for config in configs]


def kept_record(config: TrainConfig, again: Again, runs: Path) -> Report | None:
    """Load the second report of a run; None if it does not exist yet."""
    folder = _folder(config, again, runs)
    return Report.load(folder) if (folder / "report.json").exists() else None


def _folder(config: TrainConfig, again: Again, runs: Path) -> Path:
    return runs / again.folder / config.key


def _record(config: TrainConfig, again: Again, runs: Path, device: str | None) -> None:
    first = Report.load(run_folder(runs, config) / "report") if again.lipschitz else None
    recorder = replay(config, partial(_Recorded, config, again, first), device).recorder
    recorder.report.save(_folder(config, again, runs))


def _smallest(report: Report) -> int:
    """The step of the smallest COR; steps without one do not count, unless there is no other."""
    known = report.totals[report.totals["cor"].notna()]
    return report.bottleneck.step if known.empty else int(known.loc[known["cor"].idxmin(), "step"])


class _Recorded(Watcher):
    def __init__(
        self,
        config: TrainConfig,
        again: Again,
        first: Report | None,
        model: nn.Module,
        data: TrainingData,
        device: torch.device,
    ) -> None:
        self._only = None if first is None else _smallest(first)
        measured = data.test_set(again.split)
        about = {"config": config.to_dict(), "model": config.model, "data": config.data, "caption": measured.caption}
        self.recorder = Recorder(
            model, probe_loader(measured, config.record_samples, config.batch_size),
            every=config.record_every if self._only is None else [self._only], cor=again.cor, device=device,
            batch_size=config.batch_size, layerwise=again.layerwise, detail="group", extra_settings=about,
            lipschitz=again.lipschitz,
        )  # fmt: skip

    def before_step(self, step: int) -> None:
        self.recorder(step)

    def after_step(self, log: StepLog) -> bool:
        return self._only is not None and log.step + 1 > self._only

    def finish(self, step: int) -> None:
        if self._only is None and self.recorder.steps[-1] != step:
            self.recorder.measure(step)
        self.recorder(step)
