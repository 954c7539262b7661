"""Running a model over batches and collecting what the estimators need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gsnr_toolkit.batches import batch_length
from gsnr_toolkit.checks import check_finite
from gsnr_toolkit.estimators.cor import DriftGrams
from gsnr_toolkit.estimators.rows import RowPlan, cross_gram, gram
from gsnr_toolkit.estimators.shards import ShardCollector
from gsnr_toolkit.estimators.uncertainty import Floats
from gsnr_toolkit.gradients.functional import Engine, GradientTask
from gsnr_toolkit.moments import Moments
from gsnr_toolkit.perturbation import ascent_direction, global_norm, perturbed
from gsnr_toolkit.preserve import preserved_rng
from gsnr_toolkit.types import Batch, Params

Advance = Callable[[int], None]
"""Called with the number of samples just done."""


def measure_moments(
    task: GradientTask,
    batches: Iterable[Batch],
    collector: ShardCollector,
    *,
    engine: Engine,
    chunk_size: int,
    seed: int,
    advance: Advance,
) -> tuple[Moments, Floats]:
    """Stream per-sample gradients into moments, shard by shard.

    Args:
        task: Model, parameters and loss.
        batches: Batches, each seen once.
        collector: Receives every finished shard.
        engine: Per-sample gradient engine.
        chunk_size: Samples whose gradients may be alive together.
        seed: Random state of batch k is ``seed + k``.
        advance: Progress callback.

    Returns:
        Moments of all samples, and their losses, shape ``(n,)``.
    """
    total, shard = Moments(), Moments()
    losses: list[Tensor] = []
    for index, batch in enumerate(batches):
        with preserved_rng(seed=seed + index):
            for chunk in engine(task, batch, chunk_size=chunk_size):
                start, length = 0, chunk.losses.shape[0]
                while start < length:
                    stop = min(length, start + collector.size - shard.count)
                    shard.update({name: grad[start:stop] for name, grad in chunk.grads.items()})
                    if shard.count >= collector.size:
                        check_finite(shard.mean, chunk.losses, index)
                        shard = _finish(shard, total, collector)
                    start = stop
                check_finite({}, chunk.losses, index)
                losses.append(chunk.losses)
                advance(length)
        check_finite(shard.mean, chunk.losses, index)
    if shard.count:
        _finish(shard, total, collector)
    return total, torch.cat(losses).double().cpu().numpy()


def _finish(shard: Moments, total: Moments, collector: ShardCollector) -> Moments:
    collector.add(shard)
    total.absorb(shard)
    return Moments()


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
    task: GradientTask,
    batches: Sequence[Batch],
    radii: Sequence[float],
    plan: RowPlan,
    *,
    perturb: str,
    seed: int,
    advance: Advance,
    known: dict[int, tuple[Params, Tensor]] | None = None,
) -> DriftMeasurement:
    """Take each batch's gradient at the parameters and at SAM's perturbed parameters, for every radius.

    The same batches, in the same order and random state, serve every radius (common random numbers).

    Args:
        task: Model, parameters and loss.
        batches: K mini-batches of SAM's batch size.
        radii: Increasing radii.
        plan: How gradients are kept.
        perturb: ``"all"`` for one global perturbation, ``"group"`` to perturb each group by itself (the
            whole model's own row always takes the global one).
        seed: Random state of batch k is ``seed + k``.
        advance: Progress callback.
        known: Gradients and losses by batch, filled here and taken from here when they are asked for again;
            None computes them anew each time.

    Returns:
        Inner products, losses and norms.
    """
    rows = _DriftRows(plan, len(radii), perturb)
    losses, norms = [], []
    for index, batch in enumerate(batches):
        if known is None or index not in known:
            with preserved_rng(seed=seed + index):
                gradient, batch_losses = task.mean_gradient(batch)
            check_finite(gradient, batch_losses, index)
            if known is not None:
                known[index] = (gradient, batch_losses)
        else:
            gradient, batch_losses = known[index]
        losses.append(float(batch_losses.double().mean()))
        norms.append(float(global_norm(gradient)))
        rows.add_gradient(gradient)
        advance(batch_length(batch))
        for r, rho in enumerate(radii):
            for scope in rows.scopes:
                names = None if scope is None else plan.members[scope]
                moved = perturbed(task.params, ascent_direction(gradient, names), rho)
                with preserved_rng(seed=seed + index):
                    after, _ = task.mean_gradient(batch, moved)
                keep = after if scope is None else {name: after[name] for name in plan.members[scope]}
                rows.add_drift(r, scope, {name: value - gradient[name] for name, value in keep.items()})
                advance(batch_length(batch))
    return DriftMeasurement(rows.grams(np.array(radii)), np.array(losses), np.array(norms))


class _DriftRows:
    """Rows of all batches and radii until their inner products are taken."""

    def __init__(self, plan: RowPlan, num_radii: int, perturb: str) -> None:
        self.plan = plan
        self.scopes: list[str | None] = [None, *(plan.group_names if perturb == "group" else ())]
        self.gradients: list[list[Tensor]] = []
        self.drifts: list[list[list[Tensor]]] = [[] for _ in range(num_radii)]
        self.own: list[dict[str, list[Tensor]]] = [{name: [] for name in plan.group_names} for _ in range(num_radii)]

    def add_gradient(self, gradient: Params) -> None:
        self.gradients.append(self.plan.project(gradient))

    def add_drift(self, radius: int, scope: str | None, drift: Params) -> None:
        rows = self.plan.project(drift)
        if scope is None:
            self.drifts[radius].append(rows)
        else:
            self.own[radius][scope].append(rows[self.plan.group_names.index(scope)])

    def grams(self, radii: Floats) -> DriftGrams:
        gradients = [torch.stack(column) for column in zip(*self.gradients, strict=True)]
        mean = _with_total(np.stack([gram(rows).numpy() for rows in gradients]))
        drift, cross = [], []
        for r in range(len(radii)):
            joint = [torch.stack(column) for column in zip(*self.drifts[r], strict=True)]
            inner, outer = _products(gradients, joint)
            if len(self.scopes) > 1:
                own = [torch.stack(self.own[r][name]) for name in self.plan.group_names]
                own_inner, own_outer = _products(gradients, own)
                inner[:-1], outer[:-1] = own_inner[:-1], own_outer[:-1]
            drift.append(inner)
            cross.append(outer + mean)
        return DriftGrams(radii, mean, np.stack(drift), np.stack(cross))


def _products(gradients: list[Tensor], drifts: list[Tensor]) -> tuple[Floats, Floats]:
    inner = np.stack([gram(rows).numpy() for rows in drifts])
    outer = np.stack([cross_gram(g, d).numpy() for g, d in zip(gradients, drifts, strict=True)])
    return _with_total(inner), _with_total(outer)


def _with_total(grams: Floats) -> Floats:
    return np.concatenate([grams, grams.sum(0, keepdims=True)])
