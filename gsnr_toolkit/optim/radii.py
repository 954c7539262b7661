"""The radius of each parameter group at each step: a number, a schedule of it, or a controller."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.optim.margin import MarginRadius
from gsnr_toolkit.optim.rho import RadiusController, RhoSchedule, check_radius, fixed_radius
from gsnr_toolkit.optim.state import AroundBase

if TYPE_CHECKING:
    from pandas import DataFrame

AUTO = "auto"


class Radii:
    """Decides the radii of an optimizer's groups; the numbers themselves are in the groups.

    Args:
        rho: The user's ``rho``.
        schedule: Function from the step to a factor, or None.
        plateau_loss: ``plateau_loss`` of :class:`MarginRadius`, for ``rho="auto"``.
        rho_max: Its ``rho_max``.

    Raises:
        ProbeError: If ``rho`` is none of these, or an option of ``rho="auto"`` is given without it.
    """

    def __init__(
        self,
        rho: float | str | RadiusController | MarginRadius,
        schedule: RhoSchedule | None,
        *,
        plateau_loss: float | None,
        rho_max: float | None,
    ) -> None:
        given = [name for name, value in (("plateau_loss", plateau_loss), ("rho_max", rho_max)) if value is not None]
        if given and rho != AUTO:
            raise ProbeError(
                f"expected rho='auto' with {' and '.join(given)}, got rho={rho!r}; pass rho='auto', or leave "
                f"{' and '.join(given)} out"
            )
        if rho == AUTO:
            rho = MarginRadius(plateau_loss, rho_max=rho_max)
        self.controller = rho if isinstance(rho, (RadiusController, MarginRadius)) else None
        self.margin = rho if isinstance(rho, MarginRadius) else None
        self.schedule = schedule
        self.initial = fixed_radius(rho)

    def attach(self, perturbed: Collection[Tensor], *, adaptive: bool) -> None:
        """Tell a controller which parameters are perturbed."""
        if self.controller is not None:
            self.controller.attach(perturbed, adaptive=adaptive)

    def of(self, groups: list[dict[str, Any]], step: int) -> tuple[float, ...]:
        """Return the radius of each group at a step: its rho times the schedule's factor."""
        factor = self._factor(step)
        return tuple(check_radius(group["rho"], "rho") * factor for group in groups)

    def begin(self, groups: list[dict[str, Any]], step: int) -> tuple[float, ...]:
        """Let a controller that needs no gradient set the radius of a step, unless the schedule's factor is 0."""
        if self.controller is not None and self.margin is None and self._factor(step):
            _set(groups, self.controller.radius(step))
        return self.of(groups, step)

    def largest(self, groups: list[dict[str, Any]], step: int) -> tuple[float, ...]:
        """Return what the radii of a step may be: zero only where they are zero whatever the gradient is."""
        if self.margin is None:
            return self.of(groups, step)
        factor = self._factor(step)
        return tuple(group.get("rho_max", math.inf) if factor else 0.0 for group in groups)

    def watching(self) -> AbstractContextManager[None]:
        """Return the block in which the first forward and backward of a step run."""
        return nullcontext() if self.margin is None else self.margin.watching()

    def observe(self, groups: list[dict[str, Any]], step: int, loss: Any, grad_norm: float) -> tuple[float, ...]:
        """Set the radius of a step by its loss and ascent gradient, for ``rho="auto"``.

        Returns:
            The radius of each group.

        Raises:
            ProbeError: If the loss is not known.
        """
        assert self.margin is not None
        try:
            value = float(loss.detach() if isinstance(loss, Tensor) else loss)
        except (TypeError, ValueError, RuntimeError):
            raise ProbeError(
                f"expected the mean loss of the batch with rho='auto', got {type(loss).__name__}; let the closure "
                "return it, or pass it: first_step(loss=loss), perturbed(loss=loss)"
            ) from None
        _set(groups, self.margin.observe(step, value, grad_norm))
        return self.of(groups, step)

    def _factor(self, step: int) -> float:
        factor = 1.0 if self.schedule is None else self.schedule(step)
        return check_radius(factor, f"rho_schedule({step})")


def _set(groups: list[dict[str, Any]], radius: float) -> None:
    """Set the radius of all groups, in each up to its own largest."""
    radius = check_radius(radius, "the controller's radius")
    for group in groups:
        group["rho"] = min(radius, group.get("rho_max", math.inf))


class WithRadii(AroundBase):
    """The radii of an optimizer, as its users see them."""

    _radii: Radii
    steps: int

    @property
    def _controller(self) -> RadiusController | None:
        return self._radii.controller

    @property
    def rho_schedule(self) -> RhoSchedule | None:
        """The function from the step to a factor of every rho."""
        return self._radii.schedule

    @property
    def radii(self) -> tuple[float, ...]:
        """The radius of each group at the current step: its rho times the schedule's factor."""
        return self._radii.of(self.param_groups, self.steps)

    def next_radii(self) -> tuple[float, ...]:
        """Let a controller set the radius of the next step; every step begins with this.

        A controller is not asked while the schedule's factor is 0. With ``rho="auto"`` the radius follows only from the
        step's own loss and gradient.

        Returns:
            :attr:`radii` of the next step; with ``rho="auto"`` the largest that they may be.
        """
        self._radii.begin(self.param_groups, self.steps)
        return self._radii.largest(self.param_groups, self.steps)

    def watching(self) -> AbstractContextManager[None]:
        """Return a block in which ``rho="auto"`` finds the plateau's loss from the losses that are called.

        ``step(closure)`` and ``sam_step`` enter it. In a loop of your own with ``first_step(loss=loss)``, run the first
        forward pass of each step inside, or pass ``plateau_loss`` to the optimizer.

        Returns:
            A context manager; it does nothing with any other radius.
        """
        return self._radii.watching()

    @property
    def rho_history(self) -> DataFrame:
        """Loss, gradient norm, plateau and radius of each step with ``rho="auto"``; thinned out in long runs."""
        from pandas import DataFrame

        return DataFrame([] if self._radii.margin is None else self._radii.margin.history.rows)
