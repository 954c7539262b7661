"""A SAM radius that follows the critical optimization radius (COR), measured at regular intervals."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gsnr_toolkit.errors import NonFiniteError, ProbeError
from gsnr_toolkit.inputs.options import make_options
from gsnr_toolkit.optim.rho import check_radius
from gsnr_toolkit.probing.measurement import measure
from gsnr_toolkit.probing.samples import KeptSamples
from gsnr_toolkit.report.report import Report
from gsnr_toolkit.setup.distributed import unwrapped
from gsnr_toolkit.support.arguments import FUNCTION, LOADER, NUMBER, check_arguments, check_state, optional
from gsnr_toolkit.types import Loader, PerSampleLoss


@dataclass(frozen=True)
class RadiusRecord:
    """One estimate of COR and the radius that it led to.

    Attributes:
        step: The training step that followed the estimate.
        cor: The estimate; infinity above the largest radius tried, NaN without a signal.
        status: ``"ok"``, ``"above_max_radius"``, ``"no_signal"``, ``"undefined"`` or ``"not_finite"``.
        rho: The new radius.
        seconds: Duration of the estimate.
        gradient_evaluations: Gradients of single samples computed (a batch of b counts b); 0 with the user's ``probe``.
    """

    step: int
    cor: float
    status: str
    rho: float
    seconds: float
    gradient_evaluations: int


class AutoRho:
    r"""Radius controller: ``rho = min(rho_max, safety * COR)``, with a new estimate of COR every ``every`` steps.

    COR is our reconstruction (``docs/theory.md``). If an estimate has no signal or is not finite, the radius does not
    change. If COR lies above the largest radius tried, that radius takes its place. An estimate changes no random
    states, gradients, buffers or modes, so it influences training through the radius only. With ``torch.distributed``,
    the first process measures and sends the result to the others.

    Args:
        model: The trained model (unwrapped, without DDP).
        loader: Probe samples: held-out, or training samples without augmentation. ``max_samples`` of them are drawn
            once and kept. It may be the training loader, unless both would take batches from one iterator.
        loss_fn: ``(model, batch) -> (N,)``; None infers a classification loss.
        every: Steps between two estimates; the first one precedes step 0.
        safety: Fraction of COR to use, in (0, 1].
        max_samples: Maximum number of samples per estimate; together with ``every``, it bounds the cost.
        radii: Radii to try; when None four, from ``rho_max / 16`` to ``rho_max / safety``.
        rho_max: Upper limit of the radius.
        start: Radius before the first estimate with a signal; by default 0, the base optimizer's steps.
        eval_mode: Measure in eval mode, without dropout and with fixed batch statistics.
        probe: Replaces the estimate: a function that returns COR (NaN for no signal) for the optimizer's perturbation.
        **options: Further options of :func:`gsnr_toolkit.estimate_cor`. COR depends on the mini-batch size: pass SAM's
            as ``batch_size``, and a ``max_samples`` of at least eight times that.

    Attributes:
        history: A :class:`RadiusRecord` per estimate.

    Raises:
        ProbeError: If an option is out of range.

    >>> controller = AutoRho(nn.Linear(2, 1), [], every=10, safety=0.5, rho_max=0.05, probe=lambda: 0.02)
    >>> controller.radius(0), controller.radius(1), len(controller.history)
    (0.01, 0.01, 1)
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        loss_fn: PerSampleLoss | None = None,
        *,
        every: int = 50,
        safety: float = 0.5,
        max_samples: int = 64,
        radii: Sequence[float] | None = None,
        rho_max: float = 0.05,
        start: float = 0.0,
        eval_mode: bool = True,
        probe: Callable[[], float] | None = None,
        **options: Any,
    ) -> None:
        check_arguments(
            loader=(loader, LOADER),
            loss_fn=(loss_fn, optional(FUNCTION)),
            safety=(safety, NUMBER),
            probe=(probe, optional(FUNCTION)),
        )
        unwrapped(model)  # refuses what is no model here rather than at the first estimate
        if not isinstance(every, int) or every < 1:
            raise ProbeError(f"expected every to be 1 step or more, got {every!r}; pass a whole number such as 50")
        if not 0 < safety <= 1:
            raise ProbeError(f"expected safety to be above 0 and at most 1, got {safety!r}; pass a share such as 0.5")
        if check_radius(rho_max, "rho_max") == 0:
            raise ProbeError("expected rho_max above 0, got 0; leave AutoRho out for the base optimizer's steps")
        self._model, self._loss_fn = model, loss_fn
        self._every, self._safety, self._rho_max = every, safety, rho_max
        self._eval_mode, self._probe = eval_mode, probe
        largest = rho_max / safety
        default = (rho_max / 16, rho_max / 4, rho_max, largest)
        tried = tuple(dict.fromkeys(default)) if radii is None else radii
        self._progress, self._device = bool(options.pop("progress", False)), options.pop("device", None)
        self._options = make_options(**{"rho": rho_max, **options, "radii": tried, "max_samples": max_samples})
        self._samples = KeptSamples(loader, max_samples, self._options.seed) if probe is None else None
        self._rho = min(check_radius(start, "start"), rho_max)
        self._due = 0
        self._began: float | None = None
        self._elapsed = 0.0
        self.history: list[RadiusRecord] = []

    def attach(self, perturbed: Collection[Tensor], *, adaptive: bool) -> None:
        """Check that SAM perturbs the parameters for which COR is measured.

        Args:
            perturbed: Parameters that the optimizer perturbs.
            adaptive: Whether it takes ASAM's step.

        Raises:
            ProbeError: If they differ, and COR does not come from the user's ``probe``.
        """
        if self._probe is not None:
            return
        trainable = {param for param in self._model.parameters() if param.requires_grad}
        remedy = "pass probe=function that returns COR for this perturbation (radii of different ones do not compare)"
        if adaptive:
            raise ProbeError(f"expected SAM's perturbation, for which COR is measured, got ASAM's; {remedy}")
        if trainable != set(perturbed):
            raise ProbeError(
                f"expected all {len(trainable)} trainable parameters of the model to be perturbed, because COR is "
                f"measured for them, got {len(trainable & set(perturbed))} of them and "
                f"{len(set(perturbed) - trainable)} others; set requires_grad_(False) on untrained ones, or {remedy}"
            )

    def radius(self, step: int) -> float:
        """Return the radius for a step, after estimating COR if an estimate is due.

        Args:
            step: Training step, from 0.

        Returns:
            The radius, from 0 to ``rho_max``.
        """
        if self._began is None:
            self._began = time.perf_counter()
        if step >= self._due:
            record = _first_process_decides(lambda: self._measure(step))
            self.history.append(record)
            self._rho = record.rho
            self._due = step + self._every
        return self._rho

    def _measure(self, step: int) -> RadiusRecord:
        began = time.perf_counter()
        evaluations = 0
        try:
            if self._probe is not None:
                cor = float(self._probe())
                status, limit = _status(cor), cor
            else:
                report = self._estimate()
                cor, status = report.cor, str(report.total["status"])
                limit = float(report.drift["rho"].max()) if cor == math.inf else cor
                evaluations = _gradient_evaluations(report)
        except NonFiniteError:
            cor, status, limit = math.nan, "not_finite", math.nan
        rho = self._rho if math.isnan(limit) else min(self._rho_max, self._safety * limit)
        return RadiusRecord(step, cor, status, max(0.0, rho), time.perf_counter() - began, evaluations)

    def _estimate(self) -> Report:
        assert self._samples is not None
        return measure(
            self._model,
            self._samples(),
            self._loss_fn,
            self._options,
            self._device,
            with_cor=True,
            progress=self._progress,
            eval_mode=self._eval_mode,
        ).report

    @property
    def cost(self) -> dict[str, float]:
        """Cost of all estimates so far.

        ``estimates``, ``seconds``, ``gradient_evaluations`` (of single samples), and ``share`` of the wall time since
        the first step (NaN before it).
        """
        seconds = sum(record.seconds for record in self.history)
        total = self._total_seconds()
        return {
            "estimates": len(self.history),
            "seconds": seconds,
            "gradient_evaluations": sum(record.gradient_evaluations for record in self.history),
            "share": seconds / total if total > 0 else math.nan,
        }

    def _total_seconds(self) -> float:
        return self._elapsed + (0.0 if self._began is None else time.perf_counter() - self._began)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as plain values."""
        history = [asdict(record) for record in self.history]
        return {"rho": self._rho, "due": self._due, "elapsed": self._total_seconds(), "history": history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state.

        Args:
            state: The result of :meth:`state_dict`.

        Raises:
            ProbeError: If it is something else.
        """
        check_state(state, self.state_dict(), "AutoRho.state_dict()")
        self._rho, self._due = state["rho"], state["due"]
        self._elapsed, self._began = state["elapsed"], None
        self.history = [RadiusRecord(**record) for record in state["history"]]


def _status(cor: float) -> str:
    if math.isnan(cor):
        return "no_signal"
    return "above_max_radius" if cor == math.inf else "ok"


def _gradient_evaluations(report: Report) -> int:
    """Count gradients of single samples: one per sample, and those of SAM's mini-batches before and after ascents."""
    num_samples, num_batches = int(report.total["num_samples"]), int(report.settings["num_batches"])
    passes = 1 + report.drift["rho"].nunique()
    return num_samples + num_batches * int(report.settings["batch_size"]) * passes


def _first_process_decides(measure: Callable[[], RadiusRecord]) -> RadiusRecord:
    """Measure in the first process only: radii that differ by rounding could make processes diverge."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return measure()
    answer: list[Any] = [None]
    failure: Exception | None = None
    if torch.distributed.get_rank() == 0:
        try:
            answer = [measure()]
        except Exception as error:  # any error: the other processes are waiting for an answer
            failure, answer = error, [str(error)]
    torch.distributed.broadcast_object_list(answer, src=0)
    if failure is not None:
        raise failure
    if not isinstance(answer[0], RadiusRecord):
        raise ProbeError(f"expected the first process to measure COR, but it failed: {answer[0]}; see its traceback")
    return answer[0]
