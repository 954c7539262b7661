"""Whether the gradient on the plateau shrinks without end, so that a run sinks instead of leaving."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

_WINDOW = 50
_DECADE, _GONE, _RISE = 1.0, 3.0, 0.5
_SIGNIFICANT, _SMALLEST_FALL = 3.0, 0.02
_FLOOR = 1e-30

_EVERY = 5
"""Steps between two judgements."""


class GradientTrail:
    """Mini-batch gradient norms of the steps on the plateau, in decades.

    The level of reference is that of the first 50 steps there. After a stay beyond the plateau it is the lowest level
    from which the run has left so far: what has been left once is no proof of sinking.

    Attributes:
        sinking: Whether the level is a decade below the reference and falling, or three decades below it.
        drop: Decades between the reference and the present level; NaN before 100 steps with norms.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=2 * _WINDOW)
        self._reference = self._lowest = math.nan
        self._count = 0
        self.sinking, self.drop = False, math.nan

    def add(self, norm: float) -> None:
        """Add the norm of a step on the plateau; NaN if it is not known."""
        if not math.isfinite(norm):
            return
        self._recent.append(math.log10(max(norm, _FLOOR)))
        self._count += 1
        if len(self._recent) < _WINDOW or self._count % _EVERY:
            return
        values = np.array(self._recent)
        level = float(values[-_WINDOW:].mean())
        if math.isnan(self._reference):
            self._reference = level
        self._lowest = min(level, self._lowest) if self._lowest == self._lowest else level
        if len(values) == 2 * _WINDOW:
            self._judge(level, values)

    def _judge(self, level: float, values: np.ndarray) -> None:
        self.drop = self._reference - level
        before, after = values[:_WINDOW], values[_WINDOW:]
        error = math.sqrt((before.var(ddof=1) + after.var(ddof=1)) / _WINDOW)
        falls = float(before.mean()) - level > max(_SMALLEST_FALL, _SIGNIFICANT * error)
        if self.sinking:
            self.sinking = level < self._lowest + _RISE and self.drop >= _DECADE / 2
        else:
            self.sinking = (self.drop >= _DECADE and falls) or self.drop >= _GONE

    def leave(self) -> None:
        """Begin anew: the run leaves the plateau."""
        reference = min(self._reference, self._lowest) if self._lowest == self._lowest else self._reference
        self._recent.clear()
        self._reference, self._lowest = reference, math.nan
        self.sinking, self.drop = False, math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "recent": list(self._recent), "reference": self._reference, "lowest": self._lowest, "count": self._count,
            "sinking": self.sinking, "drop": self.drop,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self._recent = deque(map(float, state["recent"]), maxlen=2 * _WINDOW)
        self._reference, self._lowest = float(state["reference"]), float(state["lowest"])
        self._count = int(state["count"])
        self.sinking, self.drop = bool(state["sinking"]), float(state["drop"])
