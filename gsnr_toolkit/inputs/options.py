"""The options of a measurement, each with its meaning and range; they are saved beside every result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from numbers import Real
from typing import Any

from gsnr_toolkit.support.settings import check_settings, read_settings, setting

DEFAULT_RHO = 0.05


def default_radii(rho: float) -> tuple[float, ...]:
    """Return the six radii tried by default, from rho / 64 to 16 rho; each is four times the one before.

    Returns:
        Increasing radii; rho is one of them.

    >>> [round(radius, 4) for radius in default_radii(0.05)]
    [0.0008, 0.0031, 0.0125, 0.05, 0.2, 0.8]
    """
    return tuple(rho * 4.0**i for i in range(-3, 3))


def _are_radii(values: Sequence[float] | str) -> bool:
    if not isinstance(values, (tuple, list)) or not all(isinstance(value, Real) for value in values):
        return False
    rising = len(values) >= 2 and all(a < b for a, b in pairwise(values))
    return rising and values[0] > 0 and values[-1] < math.inf


LOWERED = "COR is that of mini-batches"
"""How the note on mini-batches smaller than the loader's begins; the verdict repeats its first clause."""


@dataclass(frozen=True)
class ProbeOptions:
    """Every option that changes a measured number, checked on creation.

    Each field states its meaning, default and range, and becomes an option of ``gsnr-probe`` as well. In Python:

    - ``groups`` may also be a function from parameter name to group name.
    - ``include_frozen`` measures frozen parameters in addition to the others.
    - ``memory`` is a number of bytes; None takes a quarter of what is free.
    - ``detail="group"`` gives no distribution of GSNR over parameters.
    - ``batch_size``: None takes the loader's, lowered until there are eight mini-batches.
    - ``radii``: if all are below ``rho``, ``rho`` is tried too: smaller radii alone cannot show whether it is safe.
    - ``lipschitz`` adds ``|mu| / lambda_max``, at the cost of tens of gradients.

    Raises:
        ProbeError: If a value is out of range; the message names the option, the range and the value.
    """

    # kind=object: checked where names become groups
    groups: str | Callable[[str], str] = setting("block", "Layers: block, module or parameter.", kind=object)  # noqa: RUF009
    layerwise: str = setting(
        "parameters", "A layer's gradient: its parameters', or a readout head's.", choices=("parameters", "readout")
    )
    include_frozen: bool = setting(False, "Measure frozen parameters as if they were trained.", kind=bool)
    engine: str = setting(
        "auto", "Per-sample gradients: auto, taps, vmap or loop.", choices=("auto", "taps", "vmap", "loop")
    )
    max_samples: int | None = setting(None, "Most samples to take from the loader. Default: all.", low=1, kind=int)
    seed: int = setting(
        0, "Seed of everything random.", low=0, high=2**63 - 1, kind=int, wanted="an integer from 0 to 2^63 - 1"
    )
    memory: int | None = setting(
        None,
        "Memory limit of a pass, besides model and moments, such as 8GB. Default: a quarter of what is free.",
        above=0,
        kind=float,
        wanted="a positive number of bytes",
    )
    detail: str = setting(
        "parameter",
        "Moments of every parameter, or by group at half the memory: parameter or group.",
        choices=("parameter", "group"),
    )
    self_check: bool = setting(True, "Check the taps engine on the first batch against single backwards.", kind=bool)
    rho: float = setting(
        DEFAULT_RHO,
        "The SAM radius you mean to train with.",
        above=0,
        kind=float,
        wanted="a positive radius, such as 0.05",
    )
    radii: tuple[float, ...] | None = setting(
        None,
        "Radii to try, such as 0.01,0.03,0.1. Default: six around rho.",
        kind=tuple,
        of=float,
        accept=_are_radii,
        wanted="two or more positive, increasing radii, such as 0.01,0.03,0.1",
    )
    perturb: str = setting("all", "Perturb all parameters at once, or each group alone.", choices=("all", "group"))
    batch_size: int | None = setting(None, "Mini-batch size of training and of SAM.", low=1, kind=int)
    confidence: float = setting(
        0.95, "Nominal coverage of intervals.", above=0, below=1, kind=float, wanted="between 0 and 1, such as 0.95"
    )
    refine: int = setting(1, "Extra passes with radii placed at the crossings just found.", low=0, high=5, kind=int)
    lipschitz: bool = setting(False, "Also the Lanczos radius (slow).", kind=bool)
    readout_head: str = setting(
        "zero", "Readout heads: zero, or fitted on half of the samples.", choices=("zero", "fitted")
    )

    def __post_init__(self) -> None:
        # Saved settings show each value as the caller wrote it (rho=1, not 1.0), but numpy's scalars become Python's
        # numbers, which random generators and JSON need; 0 and 1 are flags, and 64.0 is a count, where these are
        # expected.
        for item in fields(self):
            value = getattr(self, item.name)
            plain = value.item() if getattr(value, "shape", None) == () else value
            kind = item.metadata.get("kind")
            if kind is bool and type(plain) is int and plain in (0, 1):
                plain = bool(plain)
            if kind is int and type(plain) is float and plain.is_integer():
                plain = int(plain)
            object.__setattr__(self, item.name, plain)
        check_settings(self)

    @property
    def grid(self) -> tuple[float, ...]:
        """The radii of the first pass: the requested ones, plus rho if all of them are below it."""
        radii = self.radii if self.radii is not None else default_radii(self.rho)
        return radii if radii[-1] >= self.rho else (*radii, self.rho)

    def to_dict(self) -> dict[str, Any]:
        """Return option name to value, for a file; a group function is named."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if callable(self.groups):
            values["groups"] = getattr(self.groups, "__qualname__", repr(self.groups))
        values["radii"] = list(self.grid)
        return values


def make_options(*, radii: Sequence[float] | None = None, **values: Any) -> ProbeOptions:
    """Build checked options from a caller's keywords; radii may be any sequence of numbers.

    Args:
        radii: Radii; text of numbers is refused, as it is for every option.
        **values: The other options.

    Returns:
        The options.

    Raises:
        ProbeError: If an option is unknown or out of its range.
    """
    read_settings(ProbeOptions, dict.fromkeys(values))  # refuses unknown names, with the nearest known one
    return ProbeOptions(radii=_plain_radii(radii), **values)


def _plain_radii(radii: Any) -> Any:
    """Return a tuple of floats; anything that is no sequence of numbers stays as it is, for the check to refuse."""
    if radii is None or isinstance(radii, (str, bytes, Mapping)) or not isinstance(radii, Iterable):
        return radii
    held = list(radii)
    try:
        return tuple(radius if isinstance(radius, str) else float(radius) for radius in held)
    except (TypeError, ValueError):
        return tuple(held)
