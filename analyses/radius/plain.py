"""A plain run by hand: losses, gradient norms, and SAM's own objective along it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from analyses.radius.settings import Problem
from gsnr_toolkit.inputs.preserve import preserved_rng, restored_parameters
from gsnr_toolkit.search.trial import Trace
from gsnr_toolkit.training.diagnosis import PlateauWatch
from gsnr_toolkit.types import Batch

PHI_EVERY = 5
"""Steps between two looks at SAM's objective."""

PHI_RADII = tuple(float(rho) for rho in np.geomspace(0.01, 6, 14))

_MOST_WAITS = 4
"""A run that has not left the plateau goes on up to so many times its length."""


@dataclass
class PlainTrace:
    """Losses and gradient norms of each step; SAM's objective of some.

    Attributes:
        losses: Mini-batch losses.
        norms: Norms of the mini-batch gradients over what SAM perturbs.
        phi_steps: Steps at which SAM's objective was measured.
        phi: The objective at each of :data:`PHI_RADII`, on that step's mini-batch.
        left_at: First step beyond the plateau; None if it did not leave.
        score: Test score at the end.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    phi_steps: list[int] = field(default_factory=list)
    phi: list[list[float]] = field(default_factory=list)
    left_at: int | None = None
    score: float = math.nan

    @property
    def trace(self) -> Trace:
        """Losses and norms alone."""
        return Trace(self.losses, self.norms)


def plain_run(problem: Problem, plateau: float) -> PlainTrace:
    """Train plainly, longer if the plateau has not been left, and give the model back."""
    found, watch = PlainTrace(), PlateauWatch(plateau)
    steps, model = problem.setting.steps, problem.model
    optimizer = problem.sam(0.0)
    moved = [param for param in model.parameters() if param in optimizer._perturbed]
    loader = problem.loader()
    with preserved_rng(loader, seed=problem.seed), restored_parameters(model, problem.loss):
        while watch.steps < steps or (watch.left_at is None and watch.steps < _MOST_WAITS * steps):
            for batch in loader:
                optimizer.zero_grad()
                loss = problem.loss(model, batch).mean()
                loss.backward()
                gradient = [p.grad for p in moved if p.grad is not None]
                norm = float(torch.stack([part.norm() for part in gradient]).norm())
                if watch.steps % PHI_EVERY == 0:
                    found.phi_steps.append(watch.steps)
                    scales = [rho / norm if norm else 0.0 for rho in PHI_RADII]
                    found.phi.append([_objective(problem, batch, moved, scale) for scale in scales])
                optimizer.base_optimizer.step()
                found.losses.append(float(loss.detach()))
                found.norms.append(norm)
                watch.add(found.losses[-1], norm)
                if watch.steps >= steps and watch.left_at is not None:
                    break
        found.left_at, found.score = watch.left_at, problem.score()
        optimizer.zero_grad()
    return found


@torch.no_grad()
def _objective(problem: Problem, batch: Batch, moved: list[nn.Parameter], scale: float) -> float:
    """Loss of the batch after an ascent by ``scale`` times its gradient."""
    kept = [param.clone() for param in moved]
    for param in moved:
        if param.grad is not None:
            param.add_(param.grad, alpha=scale)
    value = float(problem.loss(problem.model, batch).mean())
    for param, old in zip(moved, kept, strict=True):
        param.copy_(old)
    return value
