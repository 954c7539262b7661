"""One short run of SAM from a given start, stopped as soon as its fate is clear."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gsnr_toolkit.inputs.batches import batch_length, move_batch
from gsnr_toolkit.inputs.loaders import endless_batches
from gsnr_toolkit.inputs.losses import check_loss_shape
from gsnr_toolkit.inputs.preserve import preserved_rng, restored_parameters
from gsnr_toolkit.search.optimizers import Recipe
from gsnr_toolkit.support.progress import stage
from gsnr_toolkit.training.diagnosis import PlateauWatch, outcome
from gsnr_toolkit.types import Batch, Loader, PerSampleLoss

_HOLD = 40
"""Steps for which a run must have stayed beyond the plateau before it is believed; half of the plain run's time there
if that is more."""

BEYOND = 20
"""A plain run that leaves within so many steps began beyond the plateau."""

_LEAVING = 150
"""Steps by which a run that is leaving at the horizon may go on, until it has left or not."""

_GONE = 50
"""Steps of sinking or divergence after which a run is given up; the plain run's time on the plateau if that is more."""


_STUCK = ("sinking", "diverged")


@dataclass(frozen=True)
class Trial:
    """What became of one run.

    Attributes:
        rho: Its radius; 0 for the plain run.
        seed: Seed of the run.
        outcome: ``"left"``, ``"delayed"``, ``"fell_back"``, ``"sank"`` or ``"diverged"``.
        steps: Steps made.
        steps_on_plateau: Steps before it left for good; all steps if it did not.
        passes: Forward and backward passes.
    """

    rho: float
    seed: int
    outcome: str
    steps: int
    steps_on_plateau: int
    passes: int


@dataclass(frozen=True)
class Trace:
    """Losses and gradient norms of a run, one per step."""

    losses: list[float]
    norms: list[float]


@dataclass(frozen=True)
class Start:
    """Where every trial starts from, and what it trains with.

    Attributes:
        model: Trained in place, in its present mode, and restored after each trial.
        loader: Yields batches; read again from the start when it ends.
        loss_fn: ``(model, batch) -> (N,)``.
        recipe: Builds the optimizer.
        plateau_loss: Loss of the best constant prediction.
        progress: Show a progress bar per trial.
    """

    model: nn.Module
    loader: Loader
    loss_fn: PerSampleLoss
    recipe: Recipe
    plateau_loss: float
    progress: bool

    def run(self, rho: float, seed: int, rule: StopRule) -> tuple[Trial, Trace]:
        """Make one trial, and restore the model, the loader and all random states.

        Args:
            rho: Radius.
            seed: Seed of the run. A loader that draws from the global random state yields another order for each seed;
                any other begins as many batches later.
            rule: When to stop.

        Returns:
            The trial, and its losses and norms.
        """
        watch, trace, passes, stuck = PlateauWatch(self.plateau_loss), Trace([], []), 0, 0
        with preserved_rng(self.loader, seed=seed), restored_parameters(self.model, self.loss_fn), torch.enable_grad():
            optimizer = self.recipe(rho)
            optimizer.watch_norm = True  # tells plain runs that sink
            device = next(self.model.parameters()).device
            label = f"rho = {rho:.3g}, seed {seed}" if rho else f"plain run, seed {seed}"
            with (
                stage(label, rule.most_steps, show=self.progress) as advance,
                closing(endless_batches(self.loader)) as batches,
            ):
                for _ in range(seed):
                    next(batches)
                while not rule.done(watch, stuck):
                    loss, count = _step(self, optimizer, move_batch(next(batches), device))
                    watch.add(loss, optimizer.grad_norm)
                    stuck = stuck + 1 if watch.state in _STUCK else 0
                    trace.losses.append(loss)
                    trace.norms.append(optimizer.grad_norm)
                    passes += count
                    advance(1, note=watch.state.replace("_", " "))
            for param in self.model.parameters():
                param.grad = None
        found = outcome(watch, horizon_steps=rule.horizon)
        return Trial(float(rho), seed, found, watch.steps, watch.steps_on_plateau, passes), trace


@dataclass(frozen=True)
class StopRule:
    """When the fate of a run is clear.

    Attributes:
        horizon: Steps within which it must leave the plateau.
        plain_steps: Steps of the plain run on the plateau; None for the plain run itself.
        most_steps: Steps after which it is stopped in any case.
        read_on: Go on for that many times the steps on the plateau after leaving, and up to ``least`` steps in all.
        least: See ``read_on``; 0 to stop once the run is believed to have left.
    """

    horizon: float
    plain_steps: int | None
    most_steps: int
    read_on: float = 0.0
    least: int = 0

    def done(self, watch: PlateauWatch, stuck: int) -> bool:
        """Whether the run may stop now, after so many consecutive steps of sinking or divergence."""
        steps, plain = watch.steps, self.plain_steps or 0
        if steps >= self.most_steps:
            return True
        if watch.left_at is not None:
            held = max(watch.left_at + max(_HOLD, plain // 2), self.least, math.ceil(self.read_on * watch.left_at))
            # a model that starts beyond the plateau may come back to it for as long as it is watched
            return steps >= (max(held, self.horizon) if self.plain_steps is not None and plain < BEYOND else held)
        if stuck >= max(_GONE, plain):
            return True
        return steps >= self.horizon + (_LEAVING if watch.state == "leaving" else 0)


def _step(start: Start, optimizer: Any, batch: Batch) -> tuple[float, int]:
    """Take one step; return the loss, and the number of passes."""
    passes = 0

    def closure() -> Tensor:
        nonlocal passes
        passes += 1
        loss = check_loss_shape(start.loss_fn(start.model, batch), batch_length(batch)).mean()
        loss.backward()
        return loss.detach()

    return float(optimizer.step(closure)), passes
