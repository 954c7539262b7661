"""Early diagnosis of dead runs, whose loss stays on the plateau of a constant predictor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PLATEAU = math.log(2)
"""Loss of the constant predictor on balanced classes, nats."""

MARGIN = 0.01
"""A run whose loss is not below ``PLATEAU - MARGIN`` has learned hardly anything."""

WINDOW = 20
"""Steps to average the loss over, because the loss of one batch says little."""


@dataclass(frozen=True)
class Diagnosis:
    """State of a run, judged by its losses.

    Attributes:
        status: ``"learning"``, ``"dead"``, ``"diverged"`` or ``"too_early"``.
        loss: Mean loss of the last :data:`WINDOW` steps; NaN if there are fewer.
        message: The status as a sentence, with advice.
    """

    status: str
    loss: float
    message: str


def diagnose(losses: Sequence[float], logit_std: float = math.nan) -> Diagnosis:
    """Diagnose a run on a balanced two-class problem from its training losses.

    A constant predictor has a loss of ln 2. A run whose loss is above ``ln 2 - 0.01`` is dead, at least so far. If in
    addition its logits hardly differ between images, the model's output has become a constant.

    Args:
        losses: Training losses in nats, one per step.
        logit_std: Standard deviation of the logits over images, if known.

    Returns:
        The diagnosis.

    >>> diagnose([0.69] * 40, logit_std=0.001).status, diagnose([0.3] * 40).status
    ('dead', 'learning')
    """
    if any(not math.isfinite(loss) for loss in losses[-WINDOW:]):
        return Diagnosis("diverged", math.nan, "diverged: the loss is not finite; lower the learning rate")
    if len(losses) < WINDOW:
        return Diagnosis("too_early", math.nan, f"too early to tell: {len(losses)} of {WINDOW} steps")
    mean = float(np.mean(losses[-WINDOW:]))
    if mean < PLATEAU - MARGIN:
        return Diagnosis("learning", mean, f"learning: loss {mean:.3f} is below the plateau of ln 2 = {PLATEAU:.3f}")
    constant = f", and the logits hardly differ (sd {logit_std:.2g})" if logit_std < 0.1 else ""
    message = (
        f"dead: loss {mean:.3f} is not below the plateau of ln 2 = {PLATEAU:.3f} by {MARGIN}{constant}; lower rho, "
        "start with plain steps, or train longer"
    )
    return Diagnosis("dead", mean, message)


class PlateauWatch:
    """Counts the consecutive steps for which a run has been dead.

    Args:
        patience: Number of such steps after which :attr:`hopeless` becomes true; 0 for never.

    >>> watch = PlateauWatch(patience=2)
    >>> for _ in range(WINDOW + 1):
    ...     watch.add(0.7)
    >>> watch.hopeless
    True
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.losses: list[float] = []
        self.dead_steps = 0

    def add(self, loss: float) -> None:
        """Add the training loss of a step.

        Args:
            loss: Mean loss of the step's batch.
        """
        self.losses = [*self.losses[-(WINDOW - 1) :], loss]
        self.dead_steps = self.dead_steps + 1 if diagnose(self.losses).status == "dead" else 0

    @property
    def hopeless(self) -> bool:
        """Whether to stop the run."""
        return bool(self.patience) and self.dead_steps >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as plain values."""
        return {"losses": self.losses, "dead_steps": self.dead_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state.

        Args:
            state: The result of :meth:`state_dict`.
        """
        self.losses, self.dead_steps = list(state["losses"]), int(state["dead_steps"])
