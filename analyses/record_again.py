"""Recorded plain runs made again, bit for bit on one CPU, with another recorder: other samples, or another reading."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from gsnr_toolkit import Report, TrainConfig
from gsnr_toolkit.data.loaders import probe_loader
from gsnr_toolkit.models.registry import build_model
from gsnr_toolkit.prepare import find_device
from gsnr_toolkit.preserve import preserved_rng
from gsnr_toolkit.training.loop import Callback, train
from gsnr_toolkit.training.recorder import Recorder
from gsnr_toolkit.training.setup import learning_rate, make_optimizer, open_data
from gsnr_toolkit.training.tuning import set_tuning

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
    if workers == 1:
        return [work(config) for config in configs]
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
        return list(pool.map(work, configs))


def _one_thread() -> None:
    torch.set_num_threads(1)


def _record(config: TrainConfig, again: Again, runs: Path, device: str | None) -> Report:
    folder = runs / again.folder / config.key
    if (folder / "report.json").exists():
        return Report.load(folder)
    place = find_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with preserved_rng(seed=config.seed):
        model = build_model(config.model, weights=config.weights, seed=config.seed).to(place)
        set_tuning(model, config.tuning)
        data = open_data(config, model)
        measured = data.test_set(again.split)
        recorder = Recorder(
            model, probe_loader(measured, config.record_samples, config.batch_size), every=config.record_every,
            device=place, batch_size=config.batch_size, layerwise=again.layerwise, detail="group",
            extra_settings={"config": config.to_dict(), "model": config.model, "data": config.data,
                            "caption": measured.caption},
        )  # fmt: skip
        optimizer = make_optimizer(config, model, probe_loader(data.val, config.record_samples, config.batch_size))
        model.train()
        done = train(
            model, optimizer, data.batches(start=0), steps=config.steps, learning_rate=partial(learning_rate, config),
            device=place, callbacks=[_Listener(recorder)],
        )  # fmt: skip
        if recorder.steps[-1] != done:
            recorder.measure(done)
    recorder.report.save(folder)
    return recorder.report


class _Listener(Callback):
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def before_step(self, step: int) -> None:
        self.recorder(step)
