"""Radius schedules (factors by step), and the interface of a radius controller."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from gsnr_toolkit.errors import ProbeError

RhoSchedule: TypeAlias = Callable[[int], float]
"""Function from the step (from 0) to a factor of every group's rho; a factor of 0 gives the base optimizer's step."""


@runtime_checkable
class RadiusController(Protocol):
    """Sets the radius from measurements; see :class:`gsnr_toolkit.training.auto_rho.AutoRho`."""

    def attach(self, perturbed: Collection[Tensor], *, adaptive: bool) -> None:
        """Receive the perturbed parameters; raise if the measured radius would not apply to them."""
        ...

    def radius(self, step: int) -> float:
        """Return the radius for a step; called before it, at least once."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of :meth:`state_dict`."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same factor at every step.

    Raises:
        ProbeError: If the factor is negative or not finite.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        _check_factors(self.factor)

    def __call__(self, step: int) -> float:  # noqa: ARG002 - a schedule takes a step
        """Return the factor of a step."""
        return self.factor


@dataclass(frozen=True)
class _Ramp:
    """Move from one factor to another and stay there; a subclass defines the path."""

    steps: int
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _check_factors(self.start, self.end)
        _check_steps(self.steps, least=1)

    def __call__(self, step: int) -> float:
        """Return the factor of a step."""
        share = self._share(min(step, self.steps))
        return self.start * (1 - share) + self.end * share

    def _share(self, step: int) -> float:
        raise NotImplementedError


class Linear(_Ramp):
    """Move from ``start`` to ``end`` in equal steps, then stay at ``end``.

    Attributes:
        steps: Length of the ramp: step 0 has ``start``, step ``steps`` and all later ones have ``end``.
        start: First factor.
        end: Last factor.

    Raises:
        ProbeError: If a factor is negative or not finite, or ``steps`` is below 1.

    >>> [Linear(4)(step) for step in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """

    def _share(self, step: int) -> float:
        return step / self.steps


class Cosine(_Ramp):
    """Move from ``start`` to ``end`` along half a cosine wave, then stay at ``end``.

    Attributes and errors are those of :class:`Linear`.

    >>> [round(Cosine(4, start=1.0, end=0.0)(step), 3) for step in (0, 1, 2, 4, 9)]
    [1.0, 0.854, 0.5, 0.0, 0.0]
    """

    def _share(self, step: int) -> float:
        # Rises, while cosine_decay of a learning rate falls; 1 - cosine_decay would round differently.
        return (1 - math.cos(math.pi * step / self.steps)) / 2


@dataclass(frozen=True)
class WarmStart:
    """Begin with plain steps of the base optimizer, which cost one backward each.

    Attributes:
        plain_steps: Number of plain steps.
        then: The schedule after them; it counts its steps from 0.

    Raises:
        ProbeError: If the number of steps is negative.

    >>> [WarmStart(2, Linear(2, start=0.5))(step) for step in range(5)]
    [0.0, 0.0, 0.5, 0.75, 1.0]
    """

    plain_steps: int
    then: RhoSchedule = field(default_factory=Constant)

    def __post_init__(self) -> None:
        _check_steps(self.plain_steps, least=0)

    def __call__(self, step: int) -> float:
        """Return the factor of a step."""
        return 0.0 if step < self.plain_steps else self.then(step - self.plain_steps)


def fixed_radius(rho: float | str | RadiusController) -> float:
    """Return the initial radius of groups without a ``rho``.

    Args:
        rho: The user's value.

    Returns:
        The same number; 0 under a controller, which sets the radius before the first step.

    Raises:
        ProbeError: If ``rho`` is neither a controller nor a radius.
    """
    if isinstance(rho, str):
        raise ProbeError(
            f"expected rho to be a number, 'auto' or a controller, got {rho!r}; pass rho='auto', or "
            "rho=gsnr_toolkit.AutoRho(model, loader) for a radius that follows the measured COR"
        )
    return 0.0 if isinstance(rho, RadiusController) else check_radius(rho, "rho")


def check_radius(value: float, what: str) -> float:
    """Check that a radius, or a factor of one, is finite and not negative.

    Args:
        value: The radius.
        what: Its name in the error message.

    Returns:
        The same number as a float.

    Raises:
        ProbeError: If the value is negative, infinite, NaN or not a number.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise ProbeError(
            f"expected {what} to be a finite number, 0 or above, got {value!r}; pass a radius such as 0.05"
        )
    return float(value)


def _check_factors(*factors: float) -> None:
    for factor in factors:
        check_radius(factor, "a factor of rho")


def _check_steps(steps: int, *, least: int) -> None:
    if not isinstance(steps, int) or steps < least:
        raise ProbeError(
            f"expected a whole number of steps, {least} or more, got {steps!r}; pass steps={least} or more"
        )
