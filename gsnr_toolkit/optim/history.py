"""Records of the steps of a run, thinned out so that their number stays bounded."""

from __future__ import annotations

from typing import Any

_MOST = 4096


class History:
    """One record per step; beyond 4096 records every second one is dropped, and steps are recorded half as often.

    >>> history = History()
    >>> history.add(0, loss=0.7, rho=0.0)
    >>> history.rows
    [{'step': 0, 'loss': 0.7, 'rho': 0.0}]
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._stride = 1

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, step: int, **values: float) -> None:
        """Record a step.

        Args:
            step: Its number.
            **values: What to record of it.
        """
        if step % self._stride:
            return
        if len(self.rows) >= _MOST:
            self._stride *= 2
            self.rows = [row for row in self.rows if row["step"] % self._stride == 0]
            if step % self._stride:
                return
        self.rows.append({"step": step, **values})

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as plain values."""
        return {"stride": self._stride, "rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state.

        Args:
            state: The result of :meth:`state_dict`.
        """
        self._stride, self.rows = state["stride"], [dict(row) for row in state["rows"]]
