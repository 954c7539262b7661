"""Recorded plain runs made again, bit for bit on one CPU, with another recorder: other samples, or another reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from analyses.laboratory import spread
from analyses.replay import Watcher, replay
from gsnr_toolkit import Report, TrainConfig
from gsnr_toolkit.data.loaders import probe_loader
from gsnr_toolkit.training.recorder import Recorder
from gsnr_toolkit.training.setup import TrainingData

__all__ = ["Again", "record_again"]


@dataclass(frozen=True)
class Again:
    """What is recorded the second time.

    Attributes:
        folder: Name of the folder that the reports are kept in, beside the runs.
        layerwise: Reading of "layer-wise", as in :class:`gsnr_toolkit.Recorder`.
        split: ``"val"``, the samples of the first recorder, or ``"test"``, as many others.
    """

    folder: str
    layerwise: str
    split: str = "val"


def record_again(
    configs: Sequence[TrainConfig], again: Again, runs: Path, *, workers: int, device: str | None
) -> list[Report]:
    """Make plain runs again, unless their second reports are kept already.

    Args:
        configs: Of recorded plain runs.
        again: What is recorded.
        runs: Where runs are kept.
        workers: Processes at a time.
        device: Where to train.

    Returns:
        A report for each config.
    """
    work = partial(_record, again=again, runs=runs, device=device)
    return spread(work, configs, workers=workers)


def _record(config: TrainConfig, again: Again, runs: Path, device: str | None) -> Report:
    folder = runs / again.folder / config.key
    if (folder / "report.json").exists():
        return Report.load(folder)
    recorder = replay(config, partial(_Recorded, config, again), device).recorder
    recorder.report.save(folder)
    return recorder.report


class _Recorded(Watcher):
    def __init__(
        self, config: TrainConfig, again: Again, model: nn.Module, data: TrainingData, device: torch.device
    ) -> None:
        measured = data.test_set(again.split)
        about = {"config": config.to_dict(), "model": config.model, "data": config.data, "caption": measured.caption}
        self.recorder = Recorder(
            model, probe_loader(measured, config.record_samples, config.batch_size), every=config.record_every,
            device=device, batch_size=config.batch_size, layerwise=again.layerwise, detail="group",
            extra_settings=about,
        )  # fmt: skip

    def before_step(self, step: int) -> None:
        self.recorder(step)

    def finish(self, step: int) -> None:
        if self.recorder.steps[-1] != step:
            self.recorder.measure(step)
