"""A grid of training configs: fixed settings, and every combination of the varied ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.settings import read_settings
from gsnr_toolkit.training.config import TrainConfig

__all__ = ["Grid", "check_names", "label", "make_grid", "read_grid", "value_text"]

_NAMES = tuple(item.name for item in fields(TrainConfig))
_ALWAYS = ("data", "rho", "seed")


@dataclass(frozen=True)
class Grid:
    """Values of every setting of a training run.

    Attributes:
        values: Setting to its values, at least one each.
        record_plain: Record GSNR and COR only in the runs without SAM; ``record_every`` is then 0 in the others.
    """

    values: Mapping[str, tuple[Any, ...]]
    record_plain: bool = False

    @property
    def varied(self) -> tuple[str, ...]:
        """The settings with several values."""
        return tuple(name for name, values in self.values.items() if len(values) > 1)

    @property
    def shown(self) -> tuple[str, ...]:
        """The settings that identify a run in output: data, radius, the varied ones, and the seed."""
        return tuple(dict.fromkeys(["data", "rho", *(name for name in self.varied if name != "seed"), "seed"]))

    @property
    def configs(self) -> list[TrainConfig]:
        """Every combination. All runs of the first seed come first, so that the whole picture appears early.

        Raises:
            ProbeError: If the values of a combination contradict each other.
        """
        fixed = {name: values[0] for name, values in self.values.items()}
        names = sorted(self.varied, key=lambda name: name != "seed")
        combinations = itertools.product(*(self.values[name] for name in names))
        configs = [_combine(fixed, dict(zip(names, values, strict=True))) for values in combinations]
        if self.record_plain:
            configs = [replace(config, record_every=0) if config.rho else config for config in configs]
        return list(dict.fromkeys(configs))

    def lost_in(self, newer: Grid) -> dict[str, tuple[Any, ...]]:
        """List the values of this grid that another one lacks; empty if the other is equal or larger.

        Args:
            newer: The other grid.

        Returns:
            Setting to the missing values.

        >>> make_grid(TrainConfig(), {"rho": [0, 0.1]}).lost_in(make_grid(TrainConfig(), {"rho": [0, 0.2]}))
        {'rho': (0.1,)}
        """
        lost = {name: tuple(v for v in values if v not in newer.values[name]) for name, values in self.values.items()}
        if self.record_plain != newer.record_plain:
            lost["record_plain"] = (self.record_plain,)
        return {name: values for name, values in lost.items() if values}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a file: ``base`` (fixed settings), ``axes`` (varied ones) and ``record_plain``."""
        plain = {name: [list(v) if isinstance(v, tuple) else v for v in own] for name, own in self.values.items()}
        return {
            "base": {name: values[0] for name, values in plain.items() if name not in self.varied},
            "axes": {name: values for name, values in plain.items() if name in self.varied},
            "record_plain": self.record_plain,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Grid:
        """Read what :meth:`to_dict` wrote; a setting added to the program since then gets its default.

        Args:
            stored: Plain values.

        Returns:
            An equal grid.
        """
        return read_grid(stored["base"], stored["axes"], record_plain=stored["record_plain"])


def make_grid(base: TrainConfig, axes: Mapping[str, Iterable[Any]], *, record_plain: bool = False) -> Grid:
    """Build a grid.

    Args:
        base: The fixed settings.
        axes: Setting to its values. Values may be text; repeated values count once.
        record_plain: Record only the runs without SAM.

    Returns:
        The grid; its last axis varies fastest.

    Raises:
        ProbeError: If a setting is unknown, an axis is empty, or a value is out of its range.

    >>> grid = make_grid(TrainConfig(steps=10), {"rho": [0, 0.0, "0.05"], "seed": [0, 1]})
    >>> [(config.seed, config.rho) for config in grid.configs]
    [(0, 0.0), (0, 0.05), (1, 0.0), (1, 0.05)]
    >>> make_grid(TrainConfig(), {"rhos": [0.1]})
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: ...'rhos'...
    """
    read_settings(TrainConfig, dict.fromkeys(axes))  # refuses unknown names
    fixed = {name: (getattr(base, name),) for name in _NAMES if name not in axes}
    return Grid({**fixed, **{name: _read_axis(name, given) for name, given in axes.items()}}, record_plain)


def read_grid(base: Mapping[str, Any], axes: Mapping[str, Iterable[Any]], *, record_plain: bool = False) -> Grid:
    """Build a grid from plain values, such as those of a file.

    Args:
        base: The fixed settings; any setting that is neither here nor on an axis has its default.
        axes: Setting to its values.
        record_plain: Record only the runs without SAM.

    Returns:
        The grid.
    """
    values = {name: _read_axis(name, given) for name, given in axes.items() if name in _NAMES}
    # Settings are checked against each other, so a varied one must take a value of its axis here, not its default.
    known = {name: value for name, value in base.items() if name not in axes}
    first = TrainConfig.from_dict({**known, **{name: own[0] for name, own in values.items()}})
    return make_grid(first, axes, record_plain=record_plain)


def label(config: TrainConfig, names: Iterable[str] = _ALWAYS) -> str:
    """Describe a run in a few words.

    Args:
        config: The run.
        names: Settings to name, as in :attr:`Grid.shown`.

    Returns:
        Text such as ``"demo-nt, rho 0.05, seed 1"``.

    >>> label(TrainConfig(rho=0.05, seed=1))
    'demo-nt, rho 0.05, seed 1'
    """
    parts = [(name, value_text(getattr(config, name))) for name in names]
    return ", ".join(value if name == "data" else f"{name} {value}" for name, value in parts)


def check_names(grid: Grid) -> None:
    """Refuse unknown names of models, data sets and tunings before anything is trained.

    Args:
        grid: The grid to run.

    Raises:
        ProbeError: If a name is unknown; the message suggests the nearest known one.
    """
    from gsnr_toolkit.data.registry import DATASETS
    from gsnr_toolkit.inputs.tuning import parse_tuning
    from gsnr_toolkit.models.registry import MODELS
    from gsnr_toolkit.support.lookup import is_target

    data = [*grid.values["data"], *(name for names in grid.values["eval_data"] for name in names)]
    for name in data:
        if not is_target(name) and name.partition(":")[0] != "image-folder":
            DATASETS[name]
    for name in grid.values["model"]:
        if not is_target(name):
            MODELS[name]
    for name in grid.values["tuning"]:
        parse_tuning(name)


def _read_axis(name: str, given: Any) -> tuple[Any, ...]:
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        raise ProbeError(f"expected a list of values for {name}, got {given!r}; write [{given!r}]")
    values = tuple(dict.fromkeys(_read(name, value) for value in given))
    if not values:
        raise ProbeError(f"expected at least one value for {name}, got none; give its values, or leave it out")
    return values


def _read(name: str, value: Any) -> Any:
    """Convert a value to the form that configs store, so that 0 and 0.0 are one run and not two."""
    plain = value.item() if hasattr(value, "item") else value
    return getattr(TrainConfig.from_dict({name: plain}), name)


def _combine(fixed: dict[str, Any], changes: dict[str, Any]) -> TrainConfig:
    try:
        return TrainConfig(**{**fixed, **changes})
    except ProbeError as error:
        where = ", ".join(f"{name} {value}" for name, value in changes.items())
        raise ProbeError(f"combination {where}: {error}") from None


def value_text(value: Any) -> str:
    """Format the value of a setting for output."""
    if isinstance(value, tuple):
        return "+".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
