"""Is a run dead? Early diagnosis of a loss that stays on the plateau of the constant predictor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PLATEAU = math.log(2)
"""Loss of the constant predictor on balanced classes, nats."""

MARGIN = 0.01
"""A loss that is not below ``PLATEAU - MARGIN`` has learned nothing to speak of."""

WINDOW = 20
"""Steps that a loss is averaged over: one batch's loss alone says little."""


@dataclass(frozen=True)
class Diagnosis:
    """What the losses of a run say.

    Attributes:
        status: ``"learning"``, ``"dead"``, ``"diverged"`` or ``"too_early"``.
        loss: Mean loss of the last :data:`WINDOW` steps; NaN where there are fewer.
        message: The status as a sentence, with what to do.
    """

    status: str
    loss: float
    message: str


def diagnose(losses: Sequence[float], logit_std: float = math.nan) -> Diagnosis:
    """Diagnose a run of a balanced two-class problem from its training losses.

    A loss within 0.01 of ln 2, or above, is the constant predictor's: the run is dead, at least so far. If the
    logits hardly differ between images as well, the model's answer has become a constant.

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
        "begin with plain steps, or train longer"
    )
    return Diagnosis("dead", mean, message)


class PlateauWatch:
    """Counts for how many steps on end a run has been dead.

    Args:
        patience: After so many such steps :attr:`hopeless` is true; never when 0.

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
        """Take one more training loss.

        Args:
            loss: Mean loss of a step's batch.
        """
        self.losses = [*self.losses[-(WINDOW - 1) :], loss]
        self.dead_steps = self.dead_steps + 1 if diagnose(self.losses).status == "dead" else 0

    @property
    def hopeless(self) -> bool:
        """Whether to stop."""
        return bool(self.patience) and self.dead_steps >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs.

        Returns:
            Plain values.
        """
        return {"losses": self.losses, "dead_steps": self.dead_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a saved run stood.

        Args:
            state: What :meth:`state_dict` returned.
        """
        self.losses, self.dead_steps = list(state["losses"]), int(state["dead_steps"])
