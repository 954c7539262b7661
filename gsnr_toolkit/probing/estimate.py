"""The public functions that measure: ``estimate_gsnr``, ``estimate_cor``, ``probe`` and ``iter_probe``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from gsnr_toolkit.inputs.groups import GroupBy
from gsnr_toolkit.inputs.options import DEFAULT_RHO, make_options
from gsnr_toolkit.inputs.preserve import preserved_rng, restored_parameters
from gsnr_toolkit.probing.measurement import measure
from gsnr_toolkit.probing.plain_run import PlainRun, measured_steps
from gsnr_toolkit.probing.recorder import Recorder
from gsnr_toolkit.report.report import Report
from gsnr_toolkit.setup.distributed import broadcast_model, current_ranks, unwrapped
from gsnr_toolkit.setup.model_guards import check_model
from gsnr_toolkit.support.arguments import COUNT, FUNCTION, LOADER, MAPPING, POSITIVE, WHOLE, check_arguments, optional
from gsnr_toolkit.types import Loader, PerSampleLoss


def estimate_gsnr(
    model: nn.Module,
    loader: Loader,
    *,
    loss_fn: PerSampleLoss | None = None,
    groups: GroupBy = "block",
    layerwise: str = "parameters",
    include_frozen: bool = False,
    engine: str = "auto",
    max_samples: int | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Report:
    r"""Estimate the layer-wise gradient signal-to-noise ratio (GSNR) of a model on a loader.

    Source: Liu et al., ICLR 2020 (per parameter); McCandlish et al., 2018 (per group).

    .. math:: \hat r = \frac{|\bar g|^2 - \mathrm{tr} S / n}{\mathrm{tr} S}

    The loader is read once and streamed. The model is left unchanged, bit for bit.

    Args:
        model: Any ``nn.Module``, in the mode (train or eval) to measure it in.
        loader: Yields batches, usually ``(inputs, labels)``; rows are samples.
        loss_fn: ``(model, batch) -> (N,)``; None infers a classification loss from the logits.
        groups: ``"block"``, ``"module"``, ``"parameter"``, or a function from parameter name to group.
        layerwise: ``"parameters"``, or ``"readout"`` for a logistic head on each block's class token.
        include_frozen: Measure frozen parameters too, as if they were trained.
        engine: ``"auto"``, ``"taps"``, ``"vmap"`` or ``"loop"``.
        max_samples: Most samples to draw; None draws the whole loader.
        device: Where to work; None for the model's own device.
        seed: Seed of all random numbers.
        progress: Show a progress bar (on a terminal).
        **options: Further fields of :class:`gsnr_toolkit.inputs.options.ProbeOptions`, such as ``confidence``.

    Returns:
        A report with one row per group. GSNR is unbiased to O(1/n), in [-1/n, inf); NaN where the gradient's
        variance is zero.

    >>> inputs = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    >>> batches = [(inputs, (inputs[:, 0] > 0).long())]
    >>> report = estimate_gsnr(nn.Linear(5, 1), batches, progress=False)
    >>> report.to_frame()["num_samples"].tolist()
    [64]
    """
    chosen = make_options(
        groups=groups,
        layerwise=layerwise,
        include_frozen=include_frozen,
        engine=engine,
        max_samples=max_samples,
        seed=seed,
        **options,
    )
    return measure(model, loader, loss_fn, chosen, device, with_cor=False, progress=progress).report


def estimate_cor(
    model: nn.Module,
    loader: Loader,
    *,
    loss_fn: PerSampleLoss | None = None,
    groups: GroupBy = "block",
    layerwise: str = "parameters",
    include_frozen: bool = False,
    engine: str = "auto",
    max_samples: int | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    progress: bool = True,
    rho: float = DEFAULT_RHO,
    radii: Sequence[float] | None = None,
    perturb: str = "all",
    batch_size: int | None = None,
    confidence: float = 0.95,
    **options: Any,
) -> Report:
    r"""Estimate the critical optimization radius (COR) of a model on a loader, as a whole and by layer.

    Our reconstruction of the paper's Definition 1:

    .. math:: \mathrm{COR} = \sup\{\rho : |\Delta(\rho')| < |\mu| \text{ for all } 0 < \rho' \le \rho\},
        \quad \Delta(\rho) = E_B[\tilde g_B(\rho) - g_B].

    Up to COR, SAM's step is certified to descend on average; past it, it may or may not. COR depends on SAM's
    mini-batch size and on the set of perturbed parameters, so compare only values that share both. Cost: one pass of
    per-sample gradients, and ``1 + len(radii)`` (plus at most three) mini-batch gradients per sample.

    Args:
        model: Any ``nn.Module``, in the mode (train or eval) to measure it in.
        loader: Yields batches, usually ``(inputs, labels)``; they are kept in memory while radii are measured.
        loss_fn: ``(model, batch) -> (N,)``; None infers a classification loss from the logits.
        groups: ``"block"``, ``"module"``, ``"parameter"``, or a function from parameter name to group.
        layerwise: ``"parameters"``, or ``"readout"`` for a logistic head on each block's class token.
        include_frozen: Measure and perturb frozen parameters too, as if they were trained.
        engine: ``"auto"``, ``"taps"``, ``"vmap"`` or ``"loop"``.
        max_samples: Most samples to draw; None draws the whole loader.
        device: Where to work; None for the model's own device.
        seed: Seed of all random numbers.
        progress: Show progress bars (on a terminal).
        rho: The SAM radius that you intend to train with, in units of the parameters.
        radii: Radii to measure; None for six from rho / 64 to 16 rho.
        perturb: ``"all"`` for SAM's own perturbation of all parameters, ``"group"`` to perturb each group alone.
        batch_size: SAM's mini-batch size; None for that of the loader, lowered until there are eight mini-batches.
        confidence: Nominal coverage of the intervals (bootstrap over mini-batches, jackknife for GSNR).
        **options: Further fields of :class:`gsnr_toolkit.inputs.options.ProbeOptions`.

    Returns:
        A report with one row per group; ``report.cor``, ``report.bottleneck``, ``report.verdict``.

    >>> inputs = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    >>> batches = [(inputs, (inputs[:, 0] + inputs[:, 1].abs() > 1).long())]
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> report = estimate_cor(model, batches, progress=False)
    >>> report.total["status"], bool(report.total["cor_low"] < report.cor < report.total["cor_high"])
    ('ok', True)
    """
    chosen = make_options(
        groups=groups,
        layerwise=layerwise,
        include_frozen=include_frozen,
        engine=engine,
        max_samples=max_samples,
        seed=seed,
        rho=rho,
        radii=radii,
        perturb=perturb,
        batch_size=batch_size,
        confidence=confidence,
        **options,
    )
    return measure(model, loader, loss_fn, chosen, device, with_cor=True, progress=progress).report


def iter_probe(
    model: nn.Module,
    loader: Loader,
    *,
    train_loader: Loader | None = None,
    steps: int = 30,
    measurements: int = 3,
    lr: float = 1e-3,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    loss_fn: PerSampleLoss | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    plateau_loss: float | None = None,
    extra_settings: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[Report]:
    """Measure along a short plain training run and yield the growing report after each measured step.

    Args:
        model: Trained in place while the iterator runs, and restored bit for bit at its end.
        loader: Samples to measure on. They are drawn once and kept, so that every step sees the same samples even if
            the loader shuffles or augments.
        train_loader: Batches to train on; None for ``loader`` (later steps are then measured on training data).
        steps: Plain training steps.
        measurements: Number of measurements, from step 0 to the last, more of them early.
        lr: Learning rate of AdamW.
        optimizer: Creates another optimizer from the list of trainable parameters.
        loss_fn: ``(model, batch) -> (N,)``; None infers a classification loss.
        device: Where to work; None for the model's own device.
        progress: Show progress bars (on a terminal).
        plateau_loss: Loss of the best constant prediction, for the margin radius; None to find it from the samples.
        extra_settings: Further settings to save with the report, such as the names of model and data.
        **options: Fields of :class:`gsnr_toolkit.inputs.options.ProbeOptions`.

    Yields:
        A report of all steps measured so far; its ``partial`` flag is set until the last step.
    """
    check_arguments(
        steps=(steps, WHOLE),
        measurements=(measurements, COUNT),
        lr=(lr, POSITIVE),
        optimizer=(optimizer, optional(FUNCTION)),
        train_loader=(train_loader, optional(LOADER)),
        extra_settings=(extra_settings, optional(MAPPING)),
    )
    schedule = measured_steps(steps, measurements)
    run = {"steps": steps, "schedule": schedule, "lr": lr, **(extra_settings or {})}
    recorder = Recorder(
        model, loader, loss_fn, eval_mode=False, device=device, progress=progress, plateau_loss=plateau_loss,
        extra_settings=run, **options,
    )  # fmt: skip
    training_data = loader if train_loader is None else train_loader
    model = unwrapped(model)[0]
    check_model(model)
    with preserved_rng(loader, train_loader, seed=recorder.options.seed), restored_parameters(model, loss_fn):
        make = partial(PlainRun, lr=lr, optimizer=optimizer, device=device)
        training = make(model, training_data, loss_fn) if steps else None
        for step in schedule:
            if training is not None:
                training.advance_to(step, progress=progress)
                broadcast_model(model, current_ranks())
            yield replace(recorder.measure(step), partial=step != schedule[-1])


def probe(model: nn.Module, loader: Loader, **options: Any) -> Report:
    """Measure GSNR and COR along a short plain training run, as ``gsnr-probe`` does.

    COR is rarely smallest at the first step, so a single measurement before training can miss the bottleneck. See
    :func:`iter_probe` for the arguments.

    Args:
        model: Restored bit for bit at the end.
        loader: Samples to measure on.
        **options: As for :func:`iter_probe`.

    Returns:
        A report of all measured steps, with the margin and the escape radius of the run.

    >>> inputs = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    >>> batches = [(inputs, (inputs[:, 0] > 0).long())]
    >>> report = probe(nn.Linear(5, 1), batches, steps=4, measurements=2, progress=False)
    >>> report.totals["step"].tolist()
    [0, 4]
    """
    report = None
    for report in iter_probe(model, loader, **options):  # noqa: B007 - the last one counts
        pass
    assert report is not None
    return report
