"""A run of the laboratory repeated under another observer: the same updates, bit for bit on one CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from analyses.collapse.laboratory import opened
from gsnr_toolkit import TrainConfig
from gsnr_toolkit.data.loaders import probe_loader
from gsnr_toolkit.inputs.device import find_device
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.inputs.tuning import set_tuning
from gsnr_toolkit.models.registry import build_model
from gsnr_toolkit.training.loop import Callback, train
from gsnr_toolkit.training.setup import TrainingData, learning_rate, make_optimizer, open_data


class Watcher(Callback):
    """Observes the model before each step, and once after the last."""

    def before_step(self, step: int) -> None:
        """Observe the model after ``step`` updates, if an observation is due."""
        raise NotImplementedError

    def finish(self, step: int) -> None:
        """Observe the model after the last of ``step`` updates."""
        raise NotImplementedError


_Watcher = TypeVar("_Watcher", bound=Watcher)


def replay(
    config: TrainConfig, watch: Callable[[nn.Module, TrainingData, torch.device], _Watcher], device: str | None
) -> _Watcher:
    """Train by a config with a fixed radius; return the observer that ``watch`` builds from model, data and device."""
    place = find_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with preserved_rng(seed=config.seed):
        model = build_model(config.model, weights=config.weights, seed=config.seed).to(place)
        set_tuning(model, config.tuning)
        data = open_data(config, model, opened())
        watcher = watch(model, data, place)
        optimizer = make_optimizer(config, model, probe_loader(data.val, 16, 8))
        model.train()
        done = train(
            model, optimizer, data.batches(start=0), steps=config.steps, learning_rate=partial(learning_rate, config),
            device=place, callbacks=[watcher],
        )  # fmt: skip
        watcher.finish(done)
    return watcher
