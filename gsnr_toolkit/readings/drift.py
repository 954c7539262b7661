"""The drift of mini-batch gradients under SAM's ascent step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from gsnr_toolkit.estimators.cor import DriftGrams
from gsnr_toolkit.estimators.evidence import DriftMeasurement
from gsnr_toolkit.gradients.batch_gradient import BatchGradient
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.moments.sketches import RowPlan, cross_gram, gram
from gsnr_toolkit.optim.perturbation import ascent_direction, global_norm, perturbed
from gsnr_toolkit.setup.batch_guards import check_finite
from gsnr_toolkit.setup.distributed import current_ranks, from_rank
from gsnr_toolkit.types import Batch, Floats, Params

Known: TypeAlias = dict[tuple[int, int | None], tuple[Params, Tensor]]
"""Mini-batch number and chunk size to that mini-batch's gradient and losses at the parameters themselves."""


def measure_drift(
    gradient: BatchGradient,
    batches: Sequence[Batch],
    radii: Sequence[float],
    plan: RowPlan,
    *,
    perturb: str,
    seed: int,
    advance: Callable[[int], None],
    known: Known | None = None,
) -> DriftMeasurement:
    """Compute each mini-batch's gradient at the parameters, and at SAM's perturbed parameters for every radius.

    Every radius sees the same mini-batches, in the same order and random state (common random numbers).

    Args:
        gradient: Computes mini-batch gradients. It lowers its chunk size if memory runs out.
        batches: K mini-batches of SAM's size.
        radii: Increasing radii.
        plan: How gradients are kept.
        perturb: ``"all"`` for one global perturbation, ``"group"`` to perturb each group alone. The row of the whole
            model takes the global one in both cases.
        seed: Random state of mini-batch k is ``seed + k``.
        advance: Progress callback.
        known: Cache of the gradients at the parameters, filled and read here; None recomputes them in each call.

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
    advance: Callable[[int], None],
) -> list[Tensor]:
    """Rows of one mini-batch."""

    # If memory runs out, all rows are computed again with smaller chunks: the chunk size decides the dropout masks,
    # which must be the same at every radius.
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
    """One mini-batch: its gradient at the parameters, and at others in the same random state."""

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
        """Change of the gradient of the named parameters under an ascent step of these parameters."""
        moved = perturbed(self._take.task.params, ascent_direction(self.gradient, names), rho)
        with preserved_rng(seed=self.seed):
            after, _ = self._take(self.batch, moved)
        kept = after if names is None else names
        return {name: after[name] - self.gradient[name] for name in kept}


class _DriftRows:
    """Rows of all mini-batches and radii, kept until their inner products are computed.

    A mini-batch is a list of tensors: its loss and gradient norm; the rows of its gradient; then for each radius the
    rows of the drift under the global perturbation and, with ``perturb="group"``, the row of each group under a
    perturbation of that group alone.
    """

    def __init__(self, plan: RowPlan, radii: Sequence[float], perturb: str) -> None:
        self.plan, self.radii = plan, radii
        self.by_group = perturb == "group"
        self.batches: list[list[Tensor]] = []

    def measure(self, one: _OneBatch, advance: Callable[[int], None]) -> list[Tensor]:
        """Compute the rows of one mini-batch."""
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
        """Tensors of the same shapes, to receive the rows of another rank."""
        blocks = 1 + len(self.radii) * (2 if self.by_group else 1)
        return [torch.zeros(2, dtype=torch.float64), *(row for _ in range(blocks) for row in self.plan.empty_rows())]

    def add(self, parts: list[Tensor]) -> None:
        """Keep the rows of one mini-batch."""
        self.batches.append(parts)

    def result(self) -> DriftMeasurement:
        """Reduce all rows to inner products."""
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
