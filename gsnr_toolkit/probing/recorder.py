"""GSNR and COR of a model along any training loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.estimators.escape import EscapeRadius, escape_radius
from gsnr_toolkit.estimators.margin import Margin
from gsnr_toolkit.inputs.options import ProbeOptions, make_options
from gsnr_toolkit.probing.measurement import Measured, measure, run_margin
from gsnr_toolkit.probing.samples import KeptSamples
from gsnr_toolkit.report.report import Report, join_steps
from gsnr_toolkit.setup.distributed import unwrapped
from gsnr_toolkit.setup.model_guards import check_model
from gsnr_toolkit.support.arguments import FUNCTION, LOADER, MAPPING, POSITIVE, check_arguments, check_state, optional
from gsnr_toolkit.types import Floats, Loader, PerSampleLoss

__all__ = ["Recorder"]


class Recorder:
    """Measures GSNR and COR along a training run and joins the measurements into one report.

    Measuring does not change training: parameters, buffers, gradients, modes and random states are restored. The
    samples are drawn once and kept (``max_samples`` of them), so that all steps are measured on the same samples. The
    loader may be the one that the training loop reads, unless both would take batches from one iterator.

    Args:
        model: The model that is trained.
        loader: Samples to measure on; preferably held-out ones, one per video or identity.
        loss_fn: ``(model, batch) -> (N,)``; None infers a classification loss.
        every: When to measure: a number of steps between measurements (also at step 0), a collection of steps, or a
            function of the step.
        cor: Measure COR and the escape radius besides GSNR. GSNR alone costs one pass of per-sample gradients.
        eval_mode: Measure in eval mode (no dropout, fixed batch statistics), whatever mode the model is in.
        device: Where to work; where the model is when None.
        progress: Show progress bars (on a terminal).
        plateau_loss: Loss of the best constant prediction, for the margin radius; None to find it from the samples.
        extra_settings: Further settings to save with the report, such as the names of model and data.
        **options: Fields of :class:`gsnr_toolkit.inputs.options.ProbeOptions`, such as ``batch_size`` and
            ``max_samples``.

    Attributes:
        options: Options of the measurement.
        steps: Steps measured so far.

    Raises:
        ProbeError: If an option is out of its range, or the loader cannot be read beside a loop over it.

    >>> inputs = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    >>> batches = [(inputs, (inputs[:, 0] > 0).long())]
    >>> model = nn.Linear(5, 1)
    >>> recorder = Recorder(model, batches, every=2)
    >>> for step in range(4):
    ...     _ = recorder(step)  # and the training step after it
    >>> recorder.report.totals["step"].tolist()
    [0, 2]
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        loss_fn: PerSampleLoss | None = None,
        *,
        every: int | Collection[int] | Callable[[int], bool] = 50,
        cor: bool = True,
        eval_mode: bool = True,
        device: str | torch.device | None = None,
        progress: bool = False,
        plateau_loss: float | None = None,
        extra_settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        unwrapped(model)  # refuses sharded parameters here rather than at the first measurement
        check_arguments(
            loader=(loader, LOADER),
            loss_fn=(loss_fn, optional(FUNCTION)),
            extra_settings=(extra_settings, optional(MAPPING)),
            plateau_loss=(plateau_loss, optional(POSITIVE)),
        )
        self._model, self._loss_fn = model, loss_fn
        self._due = _schedule(every)
        self._cor, self._eval_mode, self._device, self._progress = cor, eval_mode, device, progress
        self.options = make_options(**options)
        data = type(getattr(loader, "dataset", loader)).__name__
        self._extra = {"data": data, **(extra_settings or {})}
        self._samples = KeptSamples(loader, self.options.max_samples, self.options.seed)
        self._joint: Report | None = None
        self._batches: list[tuple[Floats, Floats]] = []
        self._plateau_loss = plateau_loss
        self.steps: list[int] = []

    def __call__(self, step: int) -> Report | None:
        """Measure the model if a measurement is due. Call it before each training step, and once after the last.

        Args:
            step: Training steps made so far.

        Returns:
            The joint report if the model was measured, else None.
        """
        if step in self.steps or not self._due(step):
            return None
        return self.measure(step)

    def measure(self, step: int) -> Report:
        """Measure the model now, due or not.

        Args:
            step: Training steps made so far; more than at the last measurement.

        Returns:
            The joint report.

        Raises:
            ProbeError: If the step is not a later one.
        """
        if self.steps and step <= self.steps[-1]:
            raise ProbeError(
                f"expected a step after {self.steps[-1]}, the last one measured, got {step}; measure steps in order, "
                "or use a new recorder for another run"
            )
        check_model(unwrapped(self._model)[0])  # before the samples are drawn, and kept for all steps
        found = measure(
            self._model,
            self._samples(),
            self._loss_fn,
            self.options,
            self._device,
            with_cor=self._cor,
            progress=self._progress,
            eval_mode=self._eval_mode,
            step=step,
            extra=self._extra,
            plateau_loss=self._plateau_loss,
        )
        self._add(step, found)
        return self.report

    @property
    def report(self) -> Report:
        """Report of all measurements so far, with the margin and the escape radius of the run.

        Raises:
            ProbeError: If there is no measurement yet.
        """
        if self._joint is None:
            raise ProbeError("expected a measurement before a report, got none; call the recorder with a step first")
        return self._joint

    def _add(self, step: int, found: Measured) -> None:
        self.steps.append(step)
        if found.drift is not None:
            self._batches.append((found.drift.losses, found.drift.norms))
        self._plateau_loss = found.plateau_loss
        escape = run_escape(self.steps, self._batches, self._plateau_loss, self.options)
        reports = [found.report] if self._joint is None else [self._joint, found.report]
        self._joint = join_steps(reports, escape=escape, margin=self._margin())

    def _margin(self) -> Margin | None:
        if not self._batches:
            return None
        losses, norms = (np.stack(column) for column in zip(*self._batches, strict=True))
        return run_margin(self.steps, losses, norms, self._plateau_loss, self.options)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs: tensors and plain values."""
        return {
            "steps": list(self.steps),
            "report": None if self._joint is None else self._joint.to_texts(),
            "batches": [[torch.from_numpy(losses), torch.from_numpy(norms)] for losses, norms in self._batches],
            "entropy": self._plateau_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a saved run.

        Args:
            state: The return value of :meth:`state_dict`.

        Raises:
            ProbeError: If it is something else.
        """
        check_state(state, self.state_dict(), "Recorder.state_dict()")
        self.steps = list(state["steps"])
        self._joint = None if state["report"] is None else Report.from_texts(state["report"])
        self._batches = [(losses.numpy(), norms.numpy()) for losses, norms in state["batches"]]
        self._plateau_loss = state["entropy"]


def _schedule(every: int | Collection[int] | Callable[[int], bool]) -> Callable[[int], bool]:
    if callable(every):
        return every
    if isinstance(every, Integral):
        if every < 1:
            raise ProbeError(f"expected every to be 1 step or more, got {every}; pass every=50, for example")
        return lambda step: step % every == 0
    if isinstance(every, str) or not isinstance(every, Collection):
        raise ProbeError(
            f"expected every to be a number of steps, a collection of steps or a function of the step, got {every!r}; "
            "pass every=50, for example"
        )
    chosen = frozenset(every)
    return lambda step: step in chosen


def run_escape(
    steps: Sequence[int],
    batches: Sequence[tuple[Floats, Floats]],
    plateau_loss: float | None,
    options: ProbeOptions,
) -> EscapeRadius:
    """Estimate the escape radius from the steps measured so far.

    Args:
        steps: Measured steps.
        batches: Losses and gradient norms of common mini-batches at each step, each of shape ``(K,)``; empty if they
            were not measured.
        plateau_loss: Loss of the best constant prediction. None takes the loss of the first step instead.
        options: For the confidence and the seed.

    Returns:
        The escape radius.
    """
    if not batches:
        nothing = float("nan")
        message = "undefined in the readout reading, and without COR: it needs the model's own mini-batch gradients"
        return EscapeRadius(nothing, nothing, nothing, -1, "undefined", message)
    losses, norms = (np.stack(column) for column in zip(*batches, strict=True))
    return escape_radius(
        list(steps),
        losses,
        norms,
        plateau_loss=float(losses[0].mean()) if plateau_loss is None else plateau_loss,
        confidence=options.confidence,
        seed=options.seed,
    )
