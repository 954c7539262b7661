"""Linear heads on frozen features: trained in a second, with AdamW or SAM around it, as ``corit train`` does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from corit.model.features import head_logits
from gsnr_toolkit.data.loaders import BalancedBatches
from gsnr_toolkit.estimators.auc import auc
from gsnr_toolkit.models.clip import HEAD_STD
from gsnr_toolkit.optim.learning_rate import cosine_decay
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.probing.recorder import Recorder
from gsnr_toolkit.training.loop import Callback, StepLog, train

LEARNING_RATES = (1e-3, 1e-2)
"""Candidates: the one with the better validation AUC without SAM is used with SAM too."""


@dataclass(frozen=True)
class Split:
    """Features ``(N, D)`` and labels ``(N,)`` of images."""

    features: Tensor
    labels: Tensor

    def part(self, seed: int, size: int) -> Split:
        """Return the ``size`` images of one seed, which no other seed has."""
        rows = slice(seed * size, (seed + 1) * size)
        return Split(self.features[rows], self.labels[rows])


@dataclass
class Fitted:
    """A trained head.

    Attributes:
        head: Weights of the step with the best validation AUC.
        val_auc: Validation AUC at that step.
        losses: Training loss by step, nats.
    """

    head: nn.Linear
    val_auc: float = math.nan
    losses: list[float] = field(default_factory=list)

    @property
    def train_loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        return float(np.mean(self.losses[-max(1, len(self.losses) // 10) :]))

    @property
    def status(self) -> str:
        """``"ok"``, or ``"diverged"`` if a loss is not finite."""
        return "ok" if all(math.isfinite(loss) for loss in self.losses) else "diverged"

    @property
    def row(self) -> dict[str, Any]:
        """Return what a table says about the fit."""
        return {"status": self.status, "val_auc": self.val_auc, "train_loss": self.train_loss}


def batches(split: Split, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of features and labels without end, half real and half fake."""
    epochs = BalancedBatches(split.labels.numpy(), batch_size, seed)
    for epoch in count():
        epochs.epoch = epoch
        for rows in epochs:
            yield split.features[rows], split.labels[rows]


class _Selection(Callback):
    """Records the losses, and the weights with the best validation AUC."""

    def __init__(self, fitted: Fitted, val: Split, every: int, recorder: Recorder | None) -> None:
        self.fitted, self._val, self._every, self._recorder = fitted, val, every, recorder
        self.best: dict[str, Tensor] = {}

    def before_step(self, step: int) -> None:
        if self._recorder is not None:
            self._recorder(step)
        if step and step % self._every == 0:
            self.validate()

    def after_step(self, log: StepLog) -> bool:
        self.fitted.losses.append(log.loss)
        return not math.isfinite(log.loss)

    def validate(self) -> None:
        scores = head_logits(self.fitted.head, self._val.features)
        found = score(scores, self._val.labels)["auc"]
        if not self.best or found > self.fitted.val_auc or math.isnan(self.fitted.val_auc):
            self.fitted.val_auc = found
            self.best = {name: value.clone() for name, value in self.fitted.head.state_dict().items()}


def fit_head(
    training: Split,
    val: Split,
    *,
    seed: int,
    steps: int,
    lr: float,
    rho: float = 0.0,
    batch_size: int = 64,
    record: bool = False,
) -> tuple[Fitted, Recorder | None]:
    """Return a linear head, and if ``record`` the recorder of GSNR and COR along the run.

    The validation features select the step. The seed is that of the initial weights and of the order. ``lr`` is the
    initial rate of a cosine schedule that ends at 0; ``rho = 0`` is plain AdamW.
    """
    head = nn.utils.skip_init(nn.Linear, training.features.shape[1], 1)
    nn.init.normal_(head.weight, std=HEAD_STD, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(head.bias)
    held = [(training.features[:512], training.labels[:512])]
    sam_batch = min(batch_size, len(held[0][1]) // 8)  # COR's interval needs eight mini-batches
    recorder = Recorder(head, held, every=max(1, steps // 4), batch_size=sam_batch) if record else None
    fitted = Fitted(head)
    watch = _Selection(fitted, val, max(1, steps // 8), recorder)
    optimizer = SAM(head.parameters(), torch.optim.AdamW, rho=rho, lr=lr, weight_decay=0.01)
    train(
        head,
        optimizer,
        batches(training, batch_size, seed),
        steps=steps,
        learning_rate=lambda step: lr * cosine_decay(step, steps),
        callbacks=[watch],
    )
    watch.validate()
    head.load_state_dict(watch.best)
    return fitted, recorder


def choose_rate(training: Split, val: Split, *, seed: int, steps: int) -> float:
    """Choose from :data:`LEARNING_RATES` by the validation AUC of plain training; the larger in a tie."""
    found = {lr: fit_head(training, val, seed=seed, steps=steps, lr=lr)[0].val_auc for lr in LEARNING_RATES}
    return max(found, key=lambda lr: (-math.inf if math.isnan(found[lr]) else found[lr], lr))


def score(logits: NDArray[np.float64], labels: Tensor) -> dict[str, float]:
    """Compute the AUC of logits ``(N,)`` with its interval over images; NaN if a logit is not finite."""
    if not np.isfinite(logits).all():
        return dict.fromkeys(("auc", "auc_low", "auc_high"), math.nan)
    known = labels.numpy()
    found = auc(logits[known == 0], logits[known == 1])
    return {"auc": found.value, "auc_low": found.low, "auc_high": found.high}


def rows_by_test_set(head: nn.Linear, tests: Mapping[str, Split], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Test a head: a row for each test set by family, with the shared columns of ``about``."""
    return [
        {**about, "test": family, "num_test": len(test.labels), **score(head_logits(head, test.features), test.labels)}
        for family, test in tests.items()
    ]
