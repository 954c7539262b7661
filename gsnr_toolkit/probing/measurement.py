"""One measurement of one model at one moment: gather, estimate, tell."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from gsnr_toolkit.errors import ProbeError, ProbeWarning
from gsnr_toolkit.estimators.estimates import Estimates, estimate
from gsnr_toolkit.estimators.evidence import DriftMeasurement, Evidence
from gsnr_toolkit.estimators.margin import Margin, margin_radius, undefined_margin
from gsnr_toolkit.gradients.kernels import native
from gsnr_toolkit.inputs.loaders import check_loader
from gsnr_toolkit.inputs.modes import in_eval_mode
from gsnr_toolkit.inputs.options import ProbeOptions
from gsnr_toolkit.inputs.plateau import plateau_of_losses
from gsnr_toolkit.inputs.preserve import preserved_model, preserved_rng
from gsnr_toolkit.readings.parameters import gather_parameters
from gsnr_toolkit.readings.readout import gather_readout
from gsnr_toolkit.report.report import Report
from gsnr_toolkit.report.tables import drift_rows, layer_rows, to_frame, trajectory_row
from gsnr_toolkit.setup.distributed import current_ranks, unwrapped
from gsnr_toolkit.setup.few_rows import on_regrouped
from gsnr_toolkit.setup.mini_batches import PREFERRED_BATCHES
from gsnr_toolkit.setup.model_guards import check_model
from gsnr_toolkit.setup.prepare import Setup, prepare
from gsnr_toolkit.support.arguments import FUNCTION, LOADER, check_arguments, optional
from gsnr_toolkit.support.provenance import environment
from gsnr_toolkit.types import Floats, Loader, PerSampleLoss

_GATHER = {"parameters": gather_parameters, "readout": gather_readout}


@dataclass(frozen=True)
class Measured:
    """A report of one step, with what the margin and the escape radius of a whole run need.

    Attributes:
        report: The report.
        drift: Losses and gradient norms of the model on common mini-batches; None if they were not measured.
        plateau_loss: Loss of the best constant prediction; None if it is not known, or not needed.
    """

    report: Report
    drift: DriftMeasurement | None
    plateau_loss: float | None


def measure(
    model: nn.Module,
    loader: Loader,
    loss_fn: PerSampleLoss | None,
    options: ProbeOptions,
    device: str | torch.device | None,
    *,
    with_cor: bool,
    progress: bool,
    eval_mode: bool = False,
    step: int = 0,
    extra: dict[str, Any] | None = None,
    plateau_loss: float | None = None,
) -> Measured:
    """Measure a model on a loader and leave both unchanged.

    Args:
        model: Any module.
        loader: Yields batches.
        loss_fn: ``(model, batch) -> (N,)``, or None to infer it.
        options: Options of the measurement.
        device: Where to work; the model's device if None.
        with_cor: Measure COR besides GSNR.
        progress: Show progress bars.
        eval_mode: Measure in eval mode, whatever mode the model is in.
        step: Training step of the measurement, for the tables.
        extra: Further settings to save with the report.
        plateau_loss: Loss of the best constant prediction; None to find it from the samples.

    Returns:
        The report of this step.
    """
    began = time.perf_counter()
    check_arguments(loader=(loader, LOADER), loss_fn=(loss_fn, optional(FUNCTION)))
    model, notes = unwrapped(model)
    check_model(model)
    check_loader(loader)
    mode = in_eval_mode(model) if eval_mode else nullcontext()
    # the mode switch inside: train() and eval() may write to the model
    with preserved_rng(loader, seed=options.seed), preserved_model(model, loss_fn), mode:
        setup = prepare(model, loader, loss_fn, options, device, with_cor=with_cor)
        task = setup.task
        with on_regrouped(lambda batch: task.losses(task.params, batch), setup.batches):
            evidence = _GATHER[options.layerwise](setup, progress=progress)
        comparable = evidence.drift if options.layerwise == "parameters" else None
        if comparable is not None and plateau_loss is None:
            plateau_loss = _plateau(setup, evidence.labels if loss_fn is None else None)
    estimates = estimate(evidence, confidence=options.confidence, seed=options.seed)
    report = _tell(setup, evidence, estimates, loader, step=step, extra=extra or {}, notes=notes, began=began)
    if comparable is not None:
        losses, norms = comparable.losses[None], comparable.norms[None]
        margin = run_margin([step], losses, norms, plateau_loss, options)
        report = replace(report, margin=margin)
    return Measured(report, comparable, plateau_loss)


def run_margin(
    steps: Sequence[int], losses: Floats, norms: Floats, plateau_loss: float | None, options: ProbeOptions
) -> Margin:
    """Estimate the margin radius from the steps measured so far.

    Args:
        steps: Measured steps.
        losses: Losses of common mini-batches at each step, shape ``(T, K)``.
        norms: Gradient norms of them, shape ``(T, K)``.
        plateau_loss: Loss of the best constant prediction, if known.
        options: For the confidence and the seed.

    Returns:
        The margin radius.
    """
    if plateau_loss is None:
        return undefined_margin("the loss of the best constant prediction is not known; pass plateau_loss=number")
    return margin_radius(
        steps, losses, norms, plateau_loss=plateau_loss, confidence=options.confidence, seed=options.seed
    )


def _plateau(setup: Setup, labels: Floats | None) -> float | None:
    """Return the loss of the best constant prediction on the samples: from class labels, or from the loss itself."""
    entropy = _entropy(labels)
    if entropy is not None:
        return entropy or None
    if current_ranks().size > 1:
        return None  # each process has samples of its own
    task = setup.task
    try:
        return plateau_of_losses(lambda batch: task.losses(task.params, batch), setup.batches) or None
    except ProbeError:
        return None


def _tell(
    setup: Setup,
    evidence: Evidence,
    estimates: Estimates,
    loader: Loader,
    *,
    step: int,
    extra: dict[str, Any],
    notes: tuple[str, ...],
    began: float,
) -> Report:
    """Put estimates into tables, with the settings and the provenance of the measurement."""
    options, drift = setup.options, evidence.drift
    rows = layer_rows(evidence, estimates, options.rho)
    _warn_undefined(rows)
    settings = {
        **options.to_dict(),
        **evidence.settings,
        "num_samples": estimates.gsnr.count,
        "batch_size": evidence.batch_size,
        "num_batches": None if drift is None else len(drift.losses),
        "model": type(setup.task.model).__name__,
        "data": type(getattr(loader, "dataset", loader)).__name__,
        "loss": setup.loss,
        "caption": "",
        "assignment": _assignment_key(evidence),
        **extra,
    }
    # In the readout reading the norms are those of the heads' gradients, which are not the model's.
    norms = drift.norms if drift is not None and options.layerwise == "parameters" else None
    return Report(
        layers=to_frame(rows[:-1], step),
        totals=to_frame(rows[-1:], step),
        drift=to_frame(drift_rows(evidence, estimates), step),
        trajectory=to_frame([trajectory_row(evidence.losses, norms, options.confidence)], step),
        settings=settings,
        provenance={**_device(setup), **environment(), "wall_seconds": round(time.perf_counter() - began, 3)},
        coverage=evidence.coverage,
        groups={name: list(members) for name, members in evidence.members.items()},
        notes=(*notes, *evidence.notes, *_few_batches(drift)),
    )


def _few_batches(drift: DriftMeasurement | None) -> list[str]:
    if drift is None or len(drift.losses) >= PREFERRED_BATCHES:
        return []
    return [
        f"COR's interval rests on {len(drift.losses)} mini-batches and is too narrow (with 4, a nominal 95 % "
        "interval covers about 75 %); give more samples or a smaller batch_size"
    ]


def _assignment_key(evidence: Evidence) -> str:
    """Eight characters that differ if the parameters or their groups differ."""
    text = repr([(group, sorted(names)) for group, names in evidence.members.items()])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _warn_undefined(rows: list[dict[str, Any]]) -> None:
    undefined = [row["group"] for row in rows[:-1] if row["status"] == "undefined"]
    if undefined:
        warnings.warn(
            f"GSNR is undefined (NaN) for {', '.join(undefined)}: the per-sample gradients have zero variance there",
            ProbeWarning,
            stacklevel=5,  # the caller of the public function
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
