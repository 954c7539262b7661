"""What can be set about a measurement, with the range of each value; saved beside every result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.groups import GroupBy

DEFAULT_RHO = 0.05
LAYERWISE = ("parameters", "readout")
PERTURB = ("all", "group")
ENGINE_NAMES = ("auto", "taps", "vmap", "loop")
DETAILS = ("parameter", "group")
READOUT_HEADS = ("zero", "fitted")


def default_radii(rho: float) -> tuple[float, ...]:
    """Radii tried by default: six, each four times the one before, from rho / 64 to 16 rho, rho among them.

    Returns:
        Increasing radii.

    >>> [round(radius, 4) for radius in default_radii(0.05)]
    [0.0008, 0.0031, 0.0125, 0.05, 0.2, 0.8]
    """
    return tuple(rho * 4.0**i for i in range(-3, 3))


@dataclass(frozen=True)
class ProbeOptions:
    """Everything that changes a measured number, checked on creation.

    Attributes:
        groups: ``"block"``, ``"module"``, ``"parameter"``, or a function from parameter name to group.
        layerwise: Whose gradient a layer's is: its own ``"parameters"``', or a ``"readout"`` head's.
        include_frozen: Measure frozen parameters too, as if they were trained.
        engine: ``"auto"``, ``"taps"``, ``"vmap"`` or ``"loop"``.
        max_samples: Most samples to take from the loader; all when None.
        seed: Seed of everything random, 0 to 2^63 - 1.
        memory: Bytes that a pass of per-sample gradients may take beside the model and the moments; a quarter of what
            is free when None.
        detail: Moments of every ``"parameter"``, or only what each ``"group"`` needs: at half the memory, without
            the distribution of GSNR over parameters.
        self_check: Check the taps engine on the first batch against one backward per sample.
        rho: The SAM radius one means to train with.
        radii: Radii to try; six around rho when None. Where all are below rho, rho is tried besides: whether
            rho is safe cannot be told from smaller radii alone.
        perturb: One perturbation of ``"all"`` parameters, or of each ``"group"`` by itself.
        batch_size: SAM's mini-batch size; the loader's when None, lowered until there are eight.
        confidence: Nominal coverage of intervals.
        refine: Extra passes with radii placed at the crossings just found, 0 to 5.
        lipschitz: Also the Lanczos radius ``|mu| / lambda_max`` (tens of gradients more).
        readout_head: Readout heads: ``"zero"``, or ``"fitted"`` on half of the samples.

    Raises:
        ProbeError: If a value is out of its range; names the option, the range and the value.
    """

    groups: str | Callable[[str], str] = "block"
    layerwise: str = "parameters"
    include_frozen: bool = False
    engine: str = "auto"
    max_samples: int | None = None
    seed: int = 0
    memory: int | None = None
    detail: str = "parameter"
    self_check: bool = True
    rho: float = DEFAULT_RHO
    radii: tuple[float, ...] | None = None
    perturb: str = "all"
    batch_size: int | None = None
    confidence: float = 0.95
    refine: int = 1
    lipschitz: bool = False
    readout_head: str = "zero"

    def __post_init__(self) -> None:
        _one_of("layerwise", self.layerwise, LAYERWISE)
        _one_of("perturb", self.perturb, PERTURB)
        _one_of("readout_head", self.readout_head, READOUT_HEADS)
        _one_of("engine", self.engine, ENGINE_NAMES)
        _one_of("detail", self.detail, DETAILS)
        _check("rho", self.rho, 0 < self.rho < math.inf, "a positive radius, such as 0.05")
        _check(
            "seed", self.seed, isinstance(self.seed, int) and 0 <= self.seed < 2**63, "an integer from 0 to 2^63 - 1"
        )
        _check("confidence", self.confidence, 0 < self.confidence < 1, "between 0 and 1, such as 0.95")
        _check("max_samples", self.max_samples, self.max_samples is None or self.max_samples >= 1, "1 or more")
        _check("batch_size", self.batch_size, self.batch_size is None or self.batch_size >= 1, "1 or more")
        _check("memory", self.memory, self.memory is None or self.memory > 0, "a positive number of bytes")
        _check("refine", self.refine, 0 <= self.refine <= 5, "0 to 5")
        if self.radii is not None:
            rising = len(self.radii) >= 2 and all(a < b for a, b in zip(self.radii, self.radii[1:], strict=False))
            good = rising and self.radii[0] > 0 and self.radii[-1] < math.inf
            _check("radii", self.radii, good, "two or more positive, increasing radii")

    @property
    def grid(self) -> tuple[float, ...]:
        """The radii of the first pass: those asked for and, where all of them are below it, rho itself."""
        radii = self.radii if self.radii is not None else default_radii(self.rho)
        return radii if radii[-1] >= self.rho else (*radii, self.rho)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file; a group function is named.

        Returns:
            Option name to value.
        """
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if callable(self.groups):
            values["groups"] = getattr(self.groups, "__qualname__", repr(self.groups))
        values["radii"] = list(self.grid)
        return values


def make_options(*, radii: Sequence[float] | None = None, groups: GroupBy = "block", **values: Any) -> ProbeOptions:
    """Build options from what a caller passed.

    Returns:
        Checked options.
    """
    return ProbeOptions(radii=None if radii is None else tuple(float(r) for r in radii), groups=groups, **values)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ProbeError(f"expected {name} to be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _check(name: str, value: object, good: bool, wanted: str) -> None:
    if not good:
        raise ProbeError(f"expected {name} to be {wanted}, got {value!r}")
