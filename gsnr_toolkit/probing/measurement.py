"""One measurement of one model at one moment: from batches to a report."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from gsnr_toolkit.errors import ProbeError, ProbeWarning
from gsnr_toolkit.estimators.cor import GroupCOR, group_cor
from gsnr_toolkit.estimators.gsnr import GroupGSNR, group_gsnr, group_totals, summarise_parameters
from gsnr_toolkit.gradients.kernels import native
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.options import ProbeOptions
from gsnr_toolkit.inputs.preserve import preserved_model, preserved_rng
from gsnr_toolkit.readings.drift import DriftMeasurement
from gsnr_toolkit.readings.evidence import Evidence
from gsnr_toolkit.readings.parameters import gather_parameters
from gsnr_toolkit.readings.readout import gather_readout
from gsnr_toolkit.report.report import Report
from gsnr_toolkit.report.tables import TOTAL, add_cor, drift_rows, gsnr_rows, to_frame, trajectory_row
from gsnr_toolkit.setup.batch_guards import checked_batches
from gsnr_toolkit.setup.distributed import current_ranks
from gsnr_toolkit.setup.engine_choice import settle_engine
from gsnr_toolkit.setup.mini_batches import PREFERRED_BATCHES, sam_batches
from gsnr_toolkit.setup.prepare import Setup, prepare
from gsnr_toolkit.support.progress import stage
from gsnr_toolkit.support.provenance import environment
from gsnr_toolkit.types import Batch, Floats, Loader, PerSampleLoss


@dataclass(frozen=True)
class Measured:
    """A report of one step, with what only several steps together need.

    Attributes:
        report: The report.
        drift: Losses and gradient norms of the model on common batches; None where not measured.
        label_entropy: Entropy of the class frequencies in nats, if the loss is a cross-entropy of classes.
    """

    report: Report
    drift: DriftMeasurement | None
    label_entropy: float | None


def measure(
    model: nn.Module,
    loader: Loader,
    loss_fn: PerSampleLoss | None,
    options: ProbeOptions,
    device: str | torch.device | None,
    *,
    with_cor: bool,
    progress: bool,
    step: int = 0,
    extra: dict[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> Measured:
    """Measure a model on a loader and leave both as they were.

    Args:
        model: Any module.
        loader: Yields batches.
        loss_fn: ``(model, batch) -> (N,)``, or None to infer it.
        options: Checked options.
        device: Where to work; where the model is when None.
        with_cor: Whether to measure COR besides GSNR.
        progress: Show progress bars.
        step: Training step to write beside the numbers.
        extra: Further settings to save.
        notes: What a reader must know already.

    Returns:
        The report, and what several steps together need.
    """
    began = time.perf_counter()
    with preserved_rng(loader, seed=options.seed), preserved_model(model):
        setup = prepare(model, loss_fn, options, device)
        if with_cor:
            _check_precision(setup)
        evidence = _gather(setup, loader, with_cor=with_cor, progress=progress, move=device is not None)
        totals = group_totals(evidence.moments, evidence.plan)
        gsnr = group_gsnr(totals, evidence.shards, options.confidence)
        groups = _groups(evidence)
        rows = gsnr_rows(groups, gsnr, _parameter_summaries(evidence))
        curve, drift = [], None
        if evidence.drift is not None:
            drift, cor = _measure_cor(evidence, gsnr, options)
            add_cor(rows, cor, options.rho, float(drift.grams.radii[-1]))
            curve = drift_rows([*evidence.plan.group_names, TOTAL], drift.grams, cor, gsnr.mean_sqnorm)
            _add_lipschitz(rows, evidence, progress=progress)
    _warn(rows)
    settings = {
        **options.to_dict(),
        **evidence.settings,
        "num_samples": gsnr.count,
        "batch_size": evidence.batch_size,
        "num_batches": None if drift is None else len(drift.losses),
        "model": type(model).__name__,
        "data": type(getattr(loader, "dataset", loader)).__name__,
        "caption": "",
        "assignment": _assignment_key(evidence),
        **(extra or {}),
    }
    norms = drift.norms if drift is not None and options.layerwise == "parameters" else None
    report = Report(
        layers=to_frame(rows[:-1], step),
        totals=to_frame(rows[-1:], step),
        drift=to_frame(curve, step) if curve else to_frame([], step),
        trajectory=to_frame([trajectory_row(evidence.losses, norms, options.confidence)], step),
        settings=settings,
        provenance={**_device(setup), **environment(), "wall_seconds": round(time.perf_counter() - began, 3)},
        coverage=evidence.coverage,
        groups={name: list(evidence.plan.members[name]) for name in evidence.plan.group_names},
        notes=(*notes, *evidence.notes, *_few_batches(drift)),
    )
    comparable = drift if options.layerwise == "parameters" else None
    return Measured(report, comparable, _entropy(evidence.labels) if loss_fn is None else None)


def _check_precision(setup: Setup) -> None:
    """Refuse COR in half precision: a radius of 0.001 would be lost to rounding, always on the safe-looking side."""
    name, param = next(iter(setup.task.params.items()))
    if param.element_size() < 4:
        raise ProbeError(
            f"expected parameters in float32 or float64 to measure COR, got {param.dtype} ({name!r}): small steps "
            "would be rounded away and COR come out too large; pass model.float()"
        )


def _gather(setup: Setup, loader: Loader, *, with_cor: bool, progress: bool, move: bool) -> Evidence:
    checked = checked_batches(setup, loader, move=move)
    first = next(checked)
    setup = settle_engine(setup, first)
    drawn: Iterable[Batch] = chain([first], checked)
    gather = gather_parameters if setup.options.layerwise == "parameters" else gather_readout
    if not with_cor:
        count = _known_count(loader, setup.options)
        if count is None and current_ranks().size > 1:  # shards are dealt out by number, so their size must be known
            held = list(drawn)
            drawn, count = held, sum(batch_length(batch) for batch in held)
        return gather(setup, drawn, count=count, with_cor=False, progress=progress)
    batches = sam_batches(list(drawn), setup.options)
    count = sum(batch_length(batch) for batch in batches)
    return gather(setup, batches, count=count, with_cor=True, progress=progress)


def _known_count(loader: Loader, options: ProbeOptions) -> int | None:
    """Number of samples a loader will give, where it can tell."""
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    try:
        count = sum(batch_length(batch) for batch in loader) if isinstance(loader, (list, tuple)) else len(sampler)  # type: ignore[arg-type]
    except TypeError:
        return None
    return count if options.max_samples is None else min(count, options.max_samples)


def _groups(evidence: Evidence) -> list[tuple[str, int, int]]:
    plan, mean = evidence.plan, evidence.moments.mean
    sizes = [sum(mean[name].numel() for name in plan.members[group]) for group in plan.group_names]
    return list(zip(plan.group_names, evidence.depths, sizes, strict=True))


def _parameter_summaries(evidence: Evidence) -> list[dict[str, float]]:
    members = [evidence.plan.members[group] for group in evidence.plan.group_names]
    everything = tuple(name for names in members for name in names)
    return [summarise_parameters(evidence.moments, names) for names in (*members, everything)]


def _measure_cor(evidence: Evidence, gsnr: GroupGSNR, options: ProbeOptions) -> tuple[DriftMeasurement, GroupCOR]:
    """Grid first, then radii placed at the crossings found."""
    assert evidence.drift is not None
    drift = evidence.drift(options.grid)
    grams = drift.grams
    for _ in range(options.refine):
        estimate = group_cor(grams, gsnr.mean_sqnorm, confidence=options.confidence, draws=2, seed=options.seed)
        crossings = _new_radii(estimate.cor, grams.radii)
        if not crossings:
            break
        grams = grams.merged(evidence.drift(crossings).grams)
    cor = group_cor(grams, gsnr.mean_sqnorm, confidence=options.confidence, seed=options.seed)
    return DriftMeasurement(grams, drift.losses, drift.norms), cor


def _new_radii(cor: Floats, tried: Floats) -> Sequence[float]:
    """Crossings of the whole model and of the weakest layer that no radius tried is within 2 % of."""
    good = np.isfinite(cor) & (cor > 0)
    wanted = {float(cor[-1])} if good[-1] else set()
    if good[:-1].any():
        wanted.add(float(cor[:-1][good[:-1]].min()))
    return sorted(rho for rho in wanted if np.abs(np.log(tried / rho)).min() > 0.02)


def _add_lipschitz(rows: list[dict[str, Any]], evidence: Evidence, *, progress: bool) -> None:
    if evidence.lipschitz is None:
        return
    with stage("largest curvature (Lanczos)", None, show=progress):
        curvature = evidence.lipschitz()
    for row in rows:
        whole = row["group"] == TOTAL and curvature > 0
        row["lipschitz_radius"] = row["grad_norm"] / curvature if whole else float("nan")


def _few_batches(drift: DriftMeasurement | None) -> list[str]:
    if drift is None or len(drift.losses) >= PREFERRED_BATCHES:
        return []
    return [
        f"COR's interval rests on {len(drift.losses)} mini-batches and is too narrow (with 4, a nominal 95 % "
        "interval covers about 75 %); give more samples or a smaller batch_size"
    ]


def _assignment_key(evidence: Evidence) -> str:
    """Eight characters that differ where parameters or their groups do."""
    text = repr([(group, sorted(evidence.plan.members[group])) for group in evidence.plan.group_names])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _warn(rows: list[dict[str, Any]]) -> None:
    undefined = [row["group"] for row in rows[:-1] if row["status"] == "undefined"]
    if undefined:
        warnings.warn(
            f"GSNR is undefined (NaN) for {', '.join(undefined)}: the per-sample gradients have zero variance there",
            ProbeWarning,
            stacklevel=4,
        )


def _entropy(labels: Floats | None) -> float | None:
    if labels is None or not np.all(labels == np.round(labels)):
        return None
    _, counts = np.unique(labels, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


def _device(setup: Setup) -> dict[str, str]:
    dtype = next(iter(setup.task.params.values())).dtype
    found = {"device": str(setup.device), "dtype": str(dtype).removeprefix("torch.")}
    return found | {"sums_by": native.description()} if setup.device.type == "cpu" else found
