"""Running a model over batches and collecting what the estimators need."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from gsnr_toolkit.estimators.cor import DriftGrams
from gsnr_toolkit.gradients.batch_gradient import BatchGradient
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.moments.sketches import RowPlan, cross_gram, gram
from gsnr_toolkit.optim.perturbation import ascent_direction, global_norm, perturbed
from gsnr_toolkit.readings.moment_pass import Advance
from gsnr_toolkit.setup.batch_guards import check_finite
from gsnr_toolkit.setup.distributed import current_ranks, from_rank
from gsnr_toolkit.types import Batch, Floats, Params

Known: TypeAlias = dict[tuple[int, int | None], tuple[Params, Tensor]]


@dataclass(frozen=True)
class DriftMeasurement:
    """Gradients of K batches before and after SAM's ascent step, reduced to inner products.

    Attributes:
        grams: Inner products.
        losses: Mean loss of each batch, shape ``(K,)``.
        norms: Gradient norm of each batch, shape ``(K,)``.
    """

    grams: DriftGrams
    losses: Floats
    norms: Floats


def measure_drift(
    gradient: BatchGradient,
    batches: Sequence[Batch],
    radii: Sequence[float],
    plan: RowPlan,
    *,
    perturb: str,
    seed: int,
    advance: Advance,
    known: Known | None = None,
) -> DriftMeasurement:
    """Take each batch's gradient at the parameters and at SAM's perturbed parameters, for every radius.

    The same batches, in the same order and random state, serve every radius (common random numbers).

    Args:
        gradient: Takes mini-batch gradients, of fewer samples at once from the batch on at which memory runs out.
        batches: K mini-batches of SAM's batch size.
        radii: Increasing radii.
        plan: How gradients are kept.
        perturb: ``"all"`` for one global perturbation, ``"group"`` to perturb each group by itself (the
            whole model's own row always takes the global one).
        seed: Random state of batch k is ``seed + k``.
        advance: Progress callback.
        known: Gradients and losses by batch and samples at once, filled here and taken from here when they are asked
            for again; None computes them anew each time.

    Returns:
        Inner products, losses and norms.
    """
    rows, ranks = _DriftRows(plan, radii, perturb), current_ranks()
    for index, batch in enumerate(batches):
        owner = ranks.owner(index)
        mine = owner == ranks.rank
        parts = _measured(rows, gradient, batch, index, seed, known, advance) if mine else rows.empty()
        rows.add([from_rank(part, owner) for part in parts] if ranks.size > 1 else parts)
    return rows.result()


def _measured(
    rows: _DriftRows,
    gradient: BatchGradient,
    batch: Batch,
    index: int,
    seed: int,
    known: Known | None,
    advance: Advance,
) -> list[Tensor]:
    """Rows of one batch, all with the same number of samples at once, so that dropout masks are the same."""

    def attempt() -> list[Tensor]:
        made: list[int] = []

        def count(samples: int) -> None:
            made.append(samples)
            advance(samples)

        try:
            return rows.measure(_OneBatch(gradient, batch, index, seed, known), count)
        except torch.OutOfMemoryError:
            advance(-sum(made))
            raise

    return gradient.until_it_fits(attempt, batch_length(batch))


class _OneBatch:
    """One mini-batch: its gradient at the parameters, and at others from the same random state."""

    def __init__(self, gradient: BatchGradient, batch: Batch, index: int, seed: int, known: Known | None) -> None:
        self._take, self.batch, self.seed = gradient, batch, seed + index
        self.length = batch_length(batch)
        key = (index, gradient.chunk_size)
        found = None if known is None else known.get(key)
        if found is None:
            with preserved_rng(seed=self.seed):
                found = gradient(batch)
            check_finite(*found, index)
        if known is not None:
            known[key] = found
        self.gradient, self.losses = found

    def drift(self, rho: float, names: Collection[str] | None) -> Params:
        """Change of the gradient under an ascent step of the named parameters, for those parameters."""
        moved = perturbed(self._take.task.params, ascent_direction(self.gradient, names), rho)
        with preserved_rng(seed=self.seed):
            after, _ = self._take(self.batch, moved)
        kept = after if names is None else names
        return {name: after[name] - self.gradient[name] for name in kept}


class _DriftRows:
    """Rows of all batches and radii until their inner products are taken.

    A batch is a list of tensors: loss and norm, then the gradient's rows, then for each radius the rows of the drift
    under one perturbation of everything and, where asked for, each group's row under a perturbation of its own.
    """

    def __init__(self, plan: RowPlan, radii: Sequence[float], perturb: str) -> None:
        self.plan, self.radii = plan, radii
        self.by_group = perturb == "group"
        self.batches: list[list[Tensor]] = []

    def measure(self, one: _OneBatch, advance: Advance) -> list[Tensor]:
        """Take one batch's rows."""
        numbers = [float(one.losses.double().mean()), float(global_norm(one.gradient))]
        parts = [torch.tensor(numbers, dtype=torch.float64), *self.plan.project(one.gradient)]
        advance(one.length)
        for rho in self.radii:
            parts += self.plan.project(one.drift(rho, None))
            advance(one.length)
            for i, group in enumerate(self.plan.group_names if self.by_group else ()):
                parts.append(self.plan.project(one.drift(rho, self.plan.members[group]))[i])
                advance(one.length)
        return parts

    def empty(self) -> list[Tensor]:
        """Tensors of the same shapes, to receive another process's."""
        blocks = 1 + len(self.radii) * (2 if self.by_group else 1)
        return [torch.zeros(2, dtype=torch.float64), *(row for _ in range(blocks) for row in self.plan.empty_rows())]

    def add(self, parts: list[Tensor]) -> None:
        """Keep one batch's rows."""
        self.batches.append(parts)

    def result(self) -> DriftMeasurement:
        """Reduce everything to inner products."""
        head, *rest = (list(column) for column in zip(*self.batches, strict=True))
        groups = len(self.plan.group_names)
        blocks = [[torch.stack(rows) for rows in rest[i : i + groups]] for i in range(0, len(rest), groups)]
        gradients, per_radius = blocks[0], 2 if self.by_group else 1
        mean = _with_total(np.stack([gram(rows).numpy() for rows in gradients]))
        drift, cross = [], []
        for r in range(len(self.radii)):
            inner, outer = _products(gradients, blocks[1 + r * per_radius])
            if self.by_group:
                own_inner, own_outer = _products(gradients, blocks[2 + r * per_radius])
                inner[:-1], outer[:-1] = own_inner[:-1], own_outer[:-1]
            drift.append(inner)
            cross.append(outer + mean)
        heads = torch.stack(head).numpy()
        grams = DriftGrams(np.array(self.radii), mean, np.stack(drift), np.stack(cross))
        return DriftMeasurement(grams, heads[:, 0], heads[:, 1])


def _products(gradients: list[Tensor], drifts: list[Tensor]) -> tuple[Floats, Floats]:
    inner = np.stack([gram(rows).numpy() for rows in drifts])
    outer = np.stack([cross_gram(g, d).numpy() for g, d in zip(gradients, drifts, strict=True)])
    return _with_total(inner), _with_total(outer)


def _with_total(grams: Floats) -> Floats:
    return np.concatenate([grams, grams.sum(0, keepdims=True)])
