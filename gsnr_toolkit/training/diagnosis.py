r"""Where a run stands, read from its losses and mini-batch gradient norms alone.

The *plateau* is the loss :math:`L_0` of the best constant prediction: ln 2 for two balanced classes, ln K for K, the
entropy of unequal class shares, the variance of a regression's targets. A run may stay there, leave for good, leave and
fall back, or *sink*: the gradient shrinks by decades until nothing can happen any more.

All thresholds come from the noise of the run's own losses and from shares of :math:`L_0`, so they hold for any
:math:`L_0` and batch size:

* *leaving*: the mean loss of the last 20 or 100 steps is below :math:`.995\,L_0` by 4.5 standard errors;
* *left*: it has stayed below so long and so deep that the sum of :math:`1 - L/L_0` over the steps exceeds 2, for 40
  steps at least, and is 2 % below now: 40 steps at 5 %, 100 at 2 %;
* *fell_back*: for 20 steps the mean of the last 20 has not been below :math:`.995\,L_0` by a standard error;
* *sinking*: the gradient norm is a decade below that of the first 50 steps on the plateau and still falls;
* *diverged*: the loss is not finite, or above :math:`2 L_0` and above twice the lowest mean so far, and not falling.

Batches of random label shares keep a norm of about :math:`\sqrt{(1 - \sum p_k^2)/B}` in the gradient of a classifier's
bias, whatever its features do, so sinking shows only with balanced batches.

If the given :math:`L_0` is at most 0.5 % too high, nothing changes; a plateau further below it is called leaving, and
one that is 2 % below it left. If it is too low, a run must fall as much further before it counts as leaving: falls of
less than what is missing are never told, deep ones a little later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.arguments import POSITIVE, WHOLE, Kind, check_arguments, check_state
from gsnr_toolkit.training.loss_noise import LONG, SHORT, LossNoise
from gsnr_toolkit.training.sinking import GradientTrail

__all__ = ["ON_PLATEAU", "OUTCOMES", "PLATEAU", "STATES", "Diagnosis", "PlateauWatch", "diagnose", "outcome"]

PLATEAU = math.log(2)
"""Loss of the constant predictor on two balanced classes, nats."""

STATES = ("too_early", "on_plateau", "leaving", "left", "fell_back", "sinking", "diverged")
"""What a run can be doing."""

ON_PLATEAU = ("on_plateau", "fell_back", "sinking")
"""The states of a run that is on the plateau."""

OUTCOMES = ("left", "delayed", "fell_back", "sank", "diverged")
"""What became of a run by its horizon."""

_TOLERANCE = 0.005
"""Share by which the given plateau loss may be too high."""

_IN, _OUT = 4.5, 1.0
"""Standard errors below the plateau at which a stay beyond it begins, and below which it ends."""

_DEPTH, _DEPTH_TIMES_STEPS, _HELD = 0.02, 2.0, 40
_FAR = 2.0


@dataclass(frozen=True)
class Diagnosis:
    """State of a run.

    Attributes:
        state: One of :data:`STATES`.
        loss: Mean loss of the last 20 steps; NaN if there are fewer, or one is not finite.
        left_at: First step of the present stay beyond the plateau if the state is ``"left"``, else None.
        times_left: How often the run was beyond the plateau, the present time included.
        steps_on_plateau: Steps before ``left_at``; all steps if that is None.
        message: The state as a sentence, with advice.
        steps: Steps seen.
    """

    state: str
    loss: float
    left_at: int | None
    times_left: int
    steps_on_plateau: int
    message: str
    steps: int


class PlateauWatch:
    """Follows a run step by step; the module's docstring defines its states.

    A step costs some microseconds, and memory is bounded: the last 200 losses and 100 norms.

    Args:
        plateau_loss: Loss of the best constant prediction, above 0.
        patience: Number of consecutive steps on the plateau (``on_plateau``, ``fell_back`` or ``sinking``) after which
            :attr:`hopeless` becomes true; 0 for never.

    Attributes:
        state: One of :data:`STATES`.
        steps: Steps seen so far.
        left_at: First step of the present stay beyond the plateau if the state is ``"left"``, else None.
        times_left: How often the run was beyond the plateau, the present time included.
        loss: Mean loss of the last 20 steps; NaN if there are fewer, or one is not finite.

    Raises:
        ProbeError: If an argument is out of range.

    >>> watch = PlateauWatch(math.log(2), patience=100)
    >>> for step in range(200):
    ...     watch.add(0.693 + 0.001 * (-1) ** step)
    >>> watch.state, watch.hopeless, watch.steps_on_plateau
    ('on_plateau', True, 200)
    """

    def __init__(self, plateau_loss: float, *, patience: int = 0) -> None:
        check_arguments(plateau_loss=(plateau_loss, POSITIVE), patience=(patience, WHOLE))
        self.plateau_loss, self.patience = float(plateau_loss), int(patience)
        self.state, self.steps, self.loss = "too_early", 0, math.nan
        self.left_at: int | None = None
        self.times_left = 0
        self._noise, self._trail = LossNoise(), GradientTrail()
        self._stay: int | None = None  # first step of the present stay beyond the plateau
        self._depth = 0.0  # sum of 1 - L / L_0 over the stay
        self._back = 0  # consecutive steps of the stay that look like the plateau
        self._since = 0  # finite losses since the last stay
        self._settled = False  # whether the first losses have come down to the plateau
        self._lowest = math.inf  # mean loss of 5 steps
        self._bad_step = -SHORT  # last step whose loss was not finite
        self._waited = 0

    def add(self, loss: float, grad_norm: float = math.nan) -> None:
        """Add a training step.

        Args:
            loss: Mean loss of the step's batch, at the unperturbed weights.
            grad_norm: Norm of the mini-batch gradient there, before clipping; NaN if unknown. Without norms, a run is
                never called sinking.
        """
        loss, norm = float(loss), float(grad_norm)
        if math.isfinite(loss):
            self._noise.add(loss)
            self._since += 1
        else:
            self._bad_step = self.steps
        self.steps += 1
        self._judge(norm)
        self._waited = self._waited + 1 if self.state in ON_PLATEAU else 0

    @property
    def steps_on_plateau(self) -> int:
        """Steps before :attr:`left_at`; all steps so far if that is None."""
        return self.steps if self.left_at is None else self.left_at

    @property
    def hopeless(self) -> bool:
        """Whether the run has been on the plateau for as long as :attr:`patience` allows."""
        return bool(self.patience) and self._waited >= self.patience

    @property
    def message(self) -> str:
        """The state as a sentence, with advice."""
        return _sentence(self)

    def diagnosis(self) -> Diagnosis:
        """Return the present state as a record."""
        return Diagnosis(
            self.state, self.loss, self.left_at, self.times_left, self.steps_on_plateau, self.message, self.steps
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as plain values."""
        own = {name: value for name, value in vars(self).items() if name not in _NOT_SAVED}
        return {**own, "noise": self._noise.state_dict(), "trail": self._trail.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state; plateau loss and patience stay those given here.

        Args:
            state: The result of :meth:`state_dict`.

        Raises:
            ProbeError: If it is the state of something else.
        """
        check_state(state, self.state_dict(), "PlateauWatch.state_dict()")
        self._noise.load_state_dict(state["noise"])
        self._trail.load_state_dict(state["trail"])
        vars(self).update({name: value for name, value in state.items() if name not in ("noise", "trail")})

    def _judge(self, norm: float) -> None:
        finite = self.steps - self._bad_step > SHORT or self._bad_step < 0
        known = len(self._noise.losses) >= SHORT
        self.loss = self._noise.mean(SHORT) if finite and known else math.nan
        self._lowest = min(self._lowest, self._noise.mean(5)) if self.steps >= 5 and finite else self._lowest
        if not finite:
            self._end_stay()
            self.state = "diverged"
            return
        if not known:
            self.state = "too_early"
            return
        if self._is_far():
            self._end_stay()
            self.state = "diverged"
            return
        self._follow()
        if self._stay is None:
            self._trail_on(norm)
        self._name()

    def _is_far(self) -> bool:
        """Whether the loss is far above the plateau and has grown; it stays so until it is down again."""
        far = self.loss > _FAR * max(self.plateau_loss, self._lowest)
        grows = self.loss >= self._noise.mean(SHORT, SHORT) or len(self._noise.losses) < 2 * SHORT
        return far and (grows or self.state == "diverged")

    def _follow(self) -> None:
        """Begin, continue or end a stay beyond the plateau."""
        if self._stay is None:
            # Windows that reach into the last stay would find it again.
            if any(self._since >= window and self._is_below(window, _IN) for window in (SHORT, LONG)):
                self._stay, self._depth, self._back = self.steps - 1, 0.0, 0
                self.times_left += 1
                self._trail.leave()
            return
        self._depth += 1 - self._noise.losses[-1] / self.plateau_loss
        self._back = 0 if self._is_below(SHORT, _OUT) else self._back + 1
        if self._back >= SHORT:
            self._end_stay()

    def _is_below(self, window: int, errors: float) -> bool:
        ceiling = (1 - _TOLERANCE) * self.plateau_loss
        return self._noise.mean(window) + errors * self._noise.error(window) < ceiling

    def _end_stay(self) -> None:
        self._stay = self.left_at = None
        self._since = 0

    def _trail_on(self, norm: float) -> None:
        """Keep the norm of a step on the plateau, once the first losses have come down to it."""
        if not self._settled:
            error = self._noise.error(SHORT)
            near = self.loss - 2 * error <= (1 + _DEPTH) * self.plateau_loss
            falls = len(self._noise.losses) < 2 * SHORT or self.loss < self._noise.mean(SHORT, SHORT) - error
            self._settled = near or not falls
        if self._settled:
            self._trail.add(norm)

    def _name(self) -> None:
        if self._stay is None:
            on_plateau = "fell_back" if self.times_left else "on_plateau"
            self.state = "sinking" if self._trail.sinking else on_plateau
            return
        held = self.steps - self._stay >= _HELD and self._depth >= _DEPTH_TIMES_STEPS
        if self.left_at is None and held and self.loss < (1 - _DEPTH) * self.plateau_loss:
            self.left_at = self._stay
        self.state = "leaving" if self.left_at is None else "left"


_NOT_SAVED = ("plateau_loss", "patience", "_noise", "_trail")


def _sentence(watch: PlateauWatch) -> str:
    loss, plateau = f"loss {watch.loss:.4g}", f"the plateau of {watch.plateau_loss:.4g}"
    times = "once" if watch.times_left == 1 else f"{watch.times_left} times"
    if watch.state == "diverged":
        what = "the loss is not finite" if math.isnan(watch.loss) else f"{loss} is far above {plateau}"
        return f"diverged: {what}; lower the learning rate"
    return {
        "too_early": f"too early to tell: {watch.steps} of {SHORT} steps",
        "on_plateau": f"on the plateau: {loss} is not below {plateau}; lower rho, start with plain steps, or train on",
        "leaving": f"leaving: {loss} is below {plateau}, not yet for good",
        "left": f"left: {loss} is below {plateau} since step {watch.left_at}",
        "fell_back": f"fell back: {loss} is at {plateau} again, which the run had left {times}; lower rho",
        "sinking": f"sinking: {loss} is at {plateau}, and the gradient has shrunk {_factor(watch)}; lower rho, or "
        "start with plain steps",
    }[watch.state]


def _factor(watch: PlateauWatch) -> str:
    return f"{10**watch._trail.drop:.2g}-fold"


_LOSSES = Kind(
    "a sequence of numbers",
    lambda value: hasattr(value, "__len__") and not isinstance(value, (str, bytes, dict)),
    "pass a list or an array with one number per step",
)


def diagnose(
    losses: Sequence[float], grad_norms: Sequence[float] | None = None, *, plateau_loss: float = PLATEAU
) -> Diagnosis:
    """Diagnose a run from its training losses, and gradient norms if known.

    Args:
        losses: Training loss of each step, in order.
        grad_norms: Norm of each step's mini-batch gradient at the unperturbed weights; needed to tell sinking.
        plateau_loss: Loss of the best constant prediction; the default is that of two balanced classes.

    Returns:
        The state at the end; the module's docstring defines the states.

    Raises:
        ProbeError: If the two differ in length, or an argument is out of range.

    >>> falling = [math.log(2) * min(1.0, math.exp((100 - step) / 50)) for step in range(300)]
    >>> found = diagnose(falling)
    >>> found.state, 90 < found.left_at < 130, diagnose(falling[:100]).state
    ('left', True, 'on_plateau')
    """
    check_arguments(losses=(losses, _LOSSES))
    norms = [math.nan] * len(losses) if grad_norms is None else grad_norms
    check_arguments(grad_norms=(norms, _LOSSES))
    if len(norms) != len(losses):
        raise ProbeError(
            f"expected one gradient norm per loss, got {len(norms)} norms and {len(losses)} losses; pass both of the "
            "same steps"
        )
    watch = PlateauWatch(plateau_loss)
    for loss, norm in zip(losses, norms, strict=True):
        watch.add(float(loss), float(norm))
    return watch.diagnosis()


def outcome(found: Diagnosis | PlateauWatch, *, horizon_steps: float) -> str:
    """Name what became of a run by its horizon, which is best given in units of the plain run's time on the plateau.

    Args:
        found: The state of a run at its horizon, or later.
        horizon_steps: Steps within which the run must have left for good.

    Returns:
        ``"left"``: for good, within the horizon; ``"delayed"``: left later, or leaving, or still on the plateau with a
        gradient that does not sink; ``"fell_back"``; ``"sank"``; or ``"diverged"``. A run that ended before the
        horizon is named by its end, so ``"delayed"`` then means undecided.

    Raises:
        ProbeError: If the horizon is not above 0.

    >>> outcome(diagnose([0.693] * 300), horizon_steps=300)
    'delayed'
    """
    check_arguments(horizon_steps=(horizon_steps, POSITIVE))
    if found.left_at is not None:
        return "left" if found.left_at <= horizon_steps else "delayed"
    return {"diverged": "diverged", "fell_back": "fell_back", "sinking": "sank"}.get(found.state, "delayed")
