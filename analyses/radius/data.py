"""Small data sets: those that ship with scikit-learn, and two that are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from torch import Tensor

_TEST_SHARE = 0.3


@dataclass(frozen=True)
class Arrays:
    """A data set in memory, split once for all seeds.

    Attributes:
        train: Inputs and targets.
        test: Inputs and targets.
        outputs: Outputs of a model; for a regression the number of targets.
        regression: Whether targets are numbers rather than classes.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    outputs: int
    regression: bool = False


def digits(*, parity: bool = False) -> Arrays:
    """Handwritten digits of 8 x 8 pixels (1797); or whether they are odd."""
    inputs, labels = datasets.load_digits(return_X_y=True)
    return _classes(inputs / 16, labels % 2 if parity else labels)


def cancer() -> Arrays:
    """Breast cancer, 30 measurements of 569 samples."""
    inputs, labels = datasets.load_breast_cancer(return_X_y=True)
    return _classes(_standard(inputs), labels)


def wine() -> Arrays:
    """Three kinds of wine, 13 measurements of 178 samples."""
    inputs, labels = datasets.load_wine(return_X_y=True)
    return _classes(_standard(inputs), labels)


def diabetes() -> Arrays:
    """Progression of diabetes, 10 measurements of 442 patients; a regression."""
    inputs, targets = datasets.load_diabetes(return_X_y=True)
    return _numbers(_standard(inputs), _standard(targets[:, None]))


def operator(count: int = 1000, points: int = 32) -> Arrays:
    """Random smooth functions on a grid, and their antiderivatives: operator learning."""
    rng, grid = np.random.default_rng(0), np.linspace(0, 1, points + 1)[1:]
    waves = np.stack([np.sin((k + 1) * np.pi * grid) for k in range(6)])
    functions = rng.normal(size=(count, 6)) / np.arange(1, 7) @ waves
    return _numbers(functions, _standard(np.cumsum(functions, 1) / points))


def sparse_parity(count: int = 2000, bits: int = 16, relevant: int = 3) -> Arrays:
    """Parity of three of sixteen random bits: nothing is learned for long, then everything."""
    inputs = np.random.default_rng(0).integers(0, 2, (count, bits)) * 2.0 - 1
    return _classes(inputs, (inputs[:, :relevant].prod(1) > 0).astype(int))


def with_random_labels(data: Arrays, share: float, seed: int) -> Arrays:
    """Replace a share of the training labels by random ones."""
    inputs, labels = data.train
    generator = torch.Generator().manual_seed(1000 + seed)
    chosen = torch.rand(len(labels), generator=generator) < share
    drawn = torch.randint(data.outputs, labels.shape, generator=generator)
    return Arrays((inputs, torch.where(chosen, drawn, labels)), data.test, data.outputs)


def scaled(data: Arrays, factor: float) -> Arrays:
    """Multiply the inputs by a factor: 16 gives the digits' raw pixels."""
    (x, y), (x_test, y_test) = data.train, data.test
    return Arrays((factor * x, y), (factor * x_test, y_test), data.outputs, data.regression)


def _standard(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean(0)) / values.std(0))


def _classes(inputs: np.ndarray, labels: np.ndarray) -> Arrays:
    parts = train_test_split(inputs, labels, test_size=_TEST_SHARE, random_state=0, stratify=labels)
    x, x_test = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    y, y_test = (torch.tensor(part, dtype=torch.int64) for part in parts[2:])
    return Arrays((x, y), (x_test, y_test), int(labels.max()) + 1)


def _numbers(inputs: np.ndarray, targets: np.ndarray) -> Arrays:
    parts = train_test_split(inputs, targets, test_size=_TEST_SHARE, random_state=0)
    x, x_test, y, y_test = (torch.tensor(part, dtype=torch.float32) for part in parts)
    return Arrays((x, y), (x_test, y_test), targets.shape[1], regression=True)
