"""``rho="auto"``: a radius that spends a share of what training has gained and of what is left to gain."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.criterion import Call, CriterionWatch
from gsnr_toolkit.inputs.plateau import plateau_of_calls
from gsnr_toolkit.optim.history import History
from gsnr_toolkit.optim.rho import check_radius
from gsnr_toolkit.support.arguments import NUMBER, POSITIVE, check_arguments, check_state, optional

_ENOUGH_ROWS, _ENOUGH_STEPS = 4096, 256
"""After so many samples, or steps, the plateau's loss is settled."""
_NONE = 1e-6
"""A plateau's loss below this is zero: all targets are equal."""


class MarginRadius:
    r"""Radius that keeps SAM's objective below the plateau: what ``rho="auto"`` stands for.

    .. math:: \rho_t = s \, \frac{L_0 - L_t}{G_t} \, \frac{L_t - L_{min}}{L_0 - L_{min}}

    ``L_t`` and ``G_t`` are exponential means of the mini-batch loss and of the norm of the ascent gradient, both known
    before SAM's second pass; ``L_0`` is the loss of the best constant prediction. To first order the perturbation then
    raises the loss by at most a share ``s`` of what has been gained over the plateau, so that SAM's objective never
    prefers the plateau (``docs/why-sam-stays.md``). On the plateau, and where the radius would be below ``smallest``,
    the step is the base optimizer's and costs one backward. This rule is ours.

    Args:
        plateau_loss: ``L_0``. When None it is found from the losses of ``torch.nn.functional`` that the closure calls,
            over the first 4096 samples; see :func:`gsnr_toolkit.plateau_loss`.
        share: ``s``: the share of the gain that may be spent, in (0, 1].
        rho_max: Upper limit of the radius; none when None.
        floor: ``L_min``: the loss of a perfect prediction. It is 0 unless targets are noisy or smoothed.
        decay: Factor of the exponential means, in [0, 1).
        smallest: Radii below this are 0.

    Attributes:
        history: A record of every step, thinned out in long runs.

    Raises:
        ProbeError: If an option is out of range.

    >>> rule = MarginRadius(plateau_loss=0.7)
    >>> rule.observe(0, loss=0.7, grad_norm=0.1), round(rule.observe(1, loss=0.2, grad_norm=1.0), 3)
    (0.0, 0.072)
    """

    def __init__(
        self,
        plateau_loss: float | None = None,
        *,
        share: float = 0.25,
        rho_max: float | None = None,
        floor: float = 0.0,
        decay: float = 0.9,
        smallest: float = 1e-3,
    ) -> None:
        check_arguments(
            plateau_loss=(plateau_loss, optional(POSITIVE)), share=(share, NUMBER), floor=(floor, NUMBER),
            decay=(decay, NUMBER), rho_max=(rho_max, optional(POSITIVE)),
        )  # fmt: skip
        if not 0 < share <= 1:
            raise ProbeError(f"expected share to be above 0 and at most 1, got {share!r}; pass a share such as 0.25")
        if not 0 <= decay < 1:
            raise ProbeError(f"expected decay to be at least 0 and below 1, got {decay!r}; pass a factor such as 0.9")
        if plateau_loss is not None and floor >= plateau_loss:
            raise ProbeError(
                f"expected floor to be below plateau_loss, got {floor!r} and {plateau_loss!r}; floor is the loss of a "
                "perfect prediction"
            )
        self.share, self.rho_max, self.floor, self.decay = share, rho_max, floor, decay
        self.smallest = check_radius(smallest, "smallest")
        self._plateau, self._given = plateau_loss, plateau_loss is not None
        self._calls: list[Call] = []
        self._watch: CriterionWatch | None = None
        self._settled, self._watched, self._losses = self._given, 0, 0.0
        self._loss = self._norm = self._weight = 0.0
        self._rho = 0.0
        self.history = History()

    @property
    def plateau_loss(self) -> float | None:
        """The loss of the best constant prediction, as far as it is known."""
        return self._plateau

    def attach(self, perturbed: Collection[Tensor], *, adaptive: bool) -> None:
        """Accept any perturbation: the norm that is observed is the one that belongs to it."""

    def radius(self, step: int) -> float:  # noqa: ARG002 - a controller is asked for a step
        """Return the radius of the last step; the next one follows from its own loss and gradient."""
        return self._rho

    @contextmanager
    def watching(self) -> Iterator[None]:
        """In the block, note which losses are called, until the plateau's loss is settled."""
        if self._settled:
            yield
            return
        with CriterionWatch() as self._watch:
            yield

    def observe(self, step: int, loss: float, grad_norm: float) -> float:
        """Return the radius of a step from its loss and ascent gradient.

        Args:
            step: Training step, from 0.
            loss: Mean loss of the mini-batch at the unperturbed weights.
            grad_norm: Norm of its gradient over the perturbed parameters; ``|T g|`` for ASAM.

        Returns:
            The radius; 0 for a plain step.

        Raises:
            ProbeError: If the plateau's loss is neither given nor known from the step.
        """
        plateau = self._plateau_after(loss)
        loss, grad_norm, plateau = _averaged(loss, grad_norm, plateau)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return self._rho  # the step will be skipped
        keep = self.decay
        self._loss = keep * self._loss + (1 - keep) * loss
        self._norm = keep * self._norm + (1 - keep) * grad_norm
        self._weight = keep * self._weight + (1 - keep)
        self._rho = self._rule(self._loss / self._weight, self._norm / self._weight, plateau)
        self.history.add(step, loss=loss, grad_norm=grad_norm, plateau_loss=plateau, rho=self._rho)
        return self._rho

    def _rule(self, loss: float, norm: float, plateau: float) -> float:
        gained, left, whole = plateau - loss, loss - self.floor, plateau - self.floor
        if not (gained > 0 and left > 0 and norm > 0 and whole > 0):
            return 0.0
        rho = self.share * gained / norm * left / whole
        rho = min(rho, math.inf if self.rho_max is None else self.rho_max)
        return rho if self.smallest <= rho < math.inf else 0.0

    def _plateau_after(self, loss: float) -> float:
        """Return the plateau's loss, from all samples seen until it is settled."""
        if not self._settled:
            if self._watch is None:
                raise ProbeError(
                    "expected plateau_loss with rho='auto' in a loop of your own, got none; pass SAM(..., rho='auto', "
                    "plateau_loss=gsnr_toolkit.plateau_loss(labels)), or run the first forward pass of each step in "
                    "`with optimizer.watching():`"
                )
            self._calls += self._watch.calls
            self._watch = None
            self._watched, self._losses = self._watched + 1, self._losses + loss
            rows = sum(call.rows for call in self._calls)
            self._settled = rows >= _ENOUGH_ROWS or self._watched >= _ENOUGH_STEPS
            if self._settled or self._watched & (self._watched - 1) == 0:  # at steps 1, 2, 4, 8, ...
                self._plateau = plateau_of_calls(self._calls, self._losses / self._watched)
            if self._settled and not (self._plateau or 0.0) > _NONE:
                raise ProbeError(
                    "expected targets that a constant prediction cannot match, got a loss of "
                    f"{self._plateau:.2g} for the best one; check the labels, or pass plateau_loss=number"
                )
            self._calls = [] if self._settled else self._calls
        assert self._plateau is not None
        return self._plateau

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as plain values."""
        return {
            "plateau_loss": self._plateau,
            "settled": self._settled,
            "watched": [self._watched, self._losses],
            "means": [self._loss, self._norm, self._weight],
            "rho": self._rho,
            "calls": [call.to_state() for call in self._calls],
            "history": self.history.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state.

        Args:
            state: The result of :meth:`state_dict`.

        Raises:
            ProbeError: If it is something else, or of a run with another ``plateau_loss``.
        """
        check_state(state, self.state_dict(), "MarginRadius.state_dict()")
        if self._given and state["plateau_loss"] != self._plateau:
            raise ProbeError(
                f"expected the state of a run with plateau_loss={self._plateau!r}, got one of "
                f"{state['plateau_loss']!r}; pass that value, or none"
            )
        self._plateau, self._settled, self._rho = state["plateau_loss"], state["settled"], state["rho"]
        self._watched, self._losses = state["watched"]
        self._loss, self._norm, self._weight = state["means"]
        self._calls = [Call.from_state(call) for call in state["calls"]]
        self.history = History()
        self.history.load_state_dict(state["history"])


def _averaged(*values: float) -> tuple[float, ...]:
    """Average over all processes, so that they take one radius."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    together = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(together)
    return tuple((together / torch.distributed.get_world_size()).tolist())
