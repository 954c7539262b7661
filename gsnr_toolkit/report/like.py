"""What drawing and printing need of a report; the class ``Report`` has all of it and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd

    from gsnr_toolkit.estimators.margin import Margin
    from gsnr_toolkit.report.suggestion import Suggestion


class BottleneckLike(Protocol):
    """Anything that names a step and a group, such as ``report.bottleneck``."""

    @property
    def step(self) -> int:
        """Training step."""

    @property
    def group(self) -> str | None:
        """Group name; None if no group has a COR at that step."""


# Properties, not attributes: a frozen dataclass has none that can be set, and mypy insists on the difference.
class ReportLike(Protocol):
    """The part of a report that pages, figures and writers read."""

    @property
    def layers(self) -> pd.DataFrame:
        """One row per step and group."""

    @property
    def totals(self) -> pd.DataFrame:
        """One row per step, for the whole model."""

    @property
    def drift(self) -> pd.DataFrame:
        """One row per step, group and radius."""

    @property
    def trajectory(self) -> pd.DataFrame:
        """Loss and gradient norm, one row per step."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Every option that changes a number."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Versions, machine, commit and time."""

    @property
    def coverage(self) -> Mapping[str, Any]:
        """Which engine served how many parameters."""

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """Group name to parameter names."""

    @property
    def margin(self) -> Margin | None:
        """The margin radius, if measured."""

    @property
    def notes(self) -> Sequence[str]:
        """Remarks for the reader."""

    @property
    def partial(self) -> bool:
        """Whether the run was interrupted."""

    @property
    def has_cor(self) -> bool:
        """Whether COR was measured."""

    @property
    def total(self) -> pd.Series:
        """The whole model's row at the bottleneck step."""

    @property
    def cor(self) -> float:
        """COR of the whole model."""

    @property
    def suggestion(self) -> Suggestion:
        """What to train with."""

    @property
    def bottleneck(self) -> BottleneckLike:
        """Step of the smallest COR, and its weakest group."""

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write the tables and ``report.json``."""

    def to_json(self) -> str:
        """Return the report as one JSON document."""
