"""Data, optimizer and learning rate of a training config."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from gsnr_toolkit.data.base import ForgeryDataset
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.models.spec import InputSpec, input_spec
from gsnr_toolkit.optim.learning_rate import warmup_then_cosine
from gsnr_toolkit.optim.margin import MarginRadius
from gsnr_toolkit.optim.rho import Cosine, Linear, RhoSchedule, WarmStart
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.training.auto_rho import AutoRho
from gsnr_toolkit.training.config import AUTO, COR, TrainConfig
from gsnr_toolkit.training.stream import balanced_rows, training_batches
from gsnr_toolkit.types import Loader

Opened: TypeAlias = dict[tuple[object, ...], ForgeryDataset]
"""Data sets by name and options. Runs of one process that share it load, or draw, each image once."""

_PLATEAU = math.log(2)
"""Loss of the best constant prediction: every batch holds both classes equally."""

_BASE = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@dataclass
class TrainingData:
    """Images to train, validate and test on; each data set is opened on first use.

    Attributes:
        config: The run's config.
        spec: The image size and normalisation that the model expects.
        opened: Cache of open data sets.
    """

    config: TrainConfig
    spec: InputSpec
    opened: Opened = field(default_factory=dict)

    @property
    def val(self) -> ForgeryDataset:
        """The validation split of the training data."""
        return self.test_set("val")

    def test_set(self, what: str) -> ForgeryDataset:
        """Open a data set to evaluate on.

        Args:
            what: ``"val"`` or ``"test"`` for that split of the training data, or the name of another data set, whose
                test split is opened.

        Returns:
            The data set.
        """
        own = what in ("val", "test")
        return self._open(self.config.data if own else what, what if own else "test", own=own)

    def batches(self, *, start: int, num_workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over training batches, starting at a given step.

        Args:
            start: The step.
            num_workers: Processes that load images.

        Returns:
            An endless iterator of ``(images, labels)``.
        """
        config = self.config
        dataset = self._open(config.data, "train", own=True)
        rows = None if config.train_samples is None else balanced_rows(dataset, config.train_samples)
        return training_batches(
            dataset,
            config.batch_size,
            seed=config.seed,
            start=start,
            rows=rows,
            label_noise=config.label_noise,
            num_workers=num_workers,
        )

    def _open(self, name: str, split: str, *, own: bool) -> ForgeryDataset:
        config, spec = self.config, self.spec
        # Strength and compression describe the training data; other data sets are tested with their defaults.
        extra: dict[str, Any] = {"strength": config.strength, "compression": config.compression} if own else {}
        options: dict[str, Any] = {
            "split": split,
            "image_size": spec.image_size,
            "mean": spec.mean,
            "std": spec.std,
            "root": config.data_root,
            **{option: value for option, value in extra.items() if value is not None},
        }
        key = (name, *sorted(options.items()))
        if key not in self.opened:
            self.opened[key] = open_dataset(name, **options)
        return self.opened[key]


def open_data(config: TrainConfig, model: nn.Module, opened: Opened | None = None) -> TrainingData:
    """Return the data of a config, sized and normalised for a model; nothing is loaded yet.

    Args:
        config: The run's config.
        model: The model.
        opened: Cache shared with other runs of this process.

    Returns:
        The data.
    """
    return TrainingData(config, input_spec(model), {} if opened is None else opened)


def make_optimizer(config: TrainConfig, model: nn.Module, probe: Loader) -> SAM:
    """Build the optimizer of a config.

    Args:
        config: The run's config.
        model: The model, with ``requires_grad`` set on the parameters to train.
        probe: Samples that COR is measured on if rho is ``"cor"``.

    Returns:
        SAM around the base optimizer; with rho 0 its step is the base optimizer's.
    """
    base: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        base["momentum"] = config.momentum
    return SAM(
        model,
        _BASE[config.optimizer],
        rho=_radius(config, model, probe),
        adaptive=config.method == "asam",
        perturb=cast("Literal['all', 'norms']", config.perturb),
        rho_schedule=_rho_schedule(config),
        **base,
    )


def _radius(config: TrainConfig, model: nn.Module, probe: Loader) -> float | MarginRadius | AutoRho:
    """Return the radius of a config, or what sets it."""
    if config.rho == AUTO:
        return MarginRadius(_PLATEAU, share=config.rho_share, rho_max=config.rho_max)
    if config.rho == COR:
        return AutoRho(
            model,
            probe,
            every=config.cor_every,
            safety=config.cor_safety,
            rho_max=config.rho_max or 0.05,
            max_samples=config.record_samples,
            batch_size=config.batch_size,
        )
    return float(config.rho)


def _rho_schedule(config: TrainConfig) -> RhoSchedule | None:
    rising = max(1, config.steps - config.plain_steps)
    kinds: dict[str, RhoSchedule] = {"linear": Linear(rising), "cosine": Cosine(rising)}
    then = kinds.get(config.rho_schedule)
    if config.plain_steps:
        return WarmStart(config.plain_steps) if then is None else WarmStart(config.plain_steps, then)
    return then


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of a step.

    Args:
        config: With ``lr``, ``lr_schedule``, ``lr_warmup`` and ``steps``.
        step: Step number, from 0.

    Returns:
        The rate. It rises linearly in the warm-up, then stays constant or falls to 0 along half a cosine wave.

    >>> [round(learning_rate(TrainConfig(lr=1.0, steps=4, lr_schedule="cosine"), step), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    >>> [learning_rate(TrainConfig(lr=1.0, steps=4, lr_warmup=2), step) for step in range(3)]
    [0.5, 1.0, 1.0]
    """
    if config.lr_schedule == "constant" and step >= config.lr_warmup:
        return config.lr
    return warmup_then_cosine(step, config.steps, peak=config.lr, warmup=config.lr_warmup)
