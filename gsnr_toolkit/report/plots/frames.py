"""Look-ups in the tables of a report: step, order of the layers, bottleneck, number of samples."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gsnr_toolkit.report.like import BottleneckLike

if TYPE_CHECKING:
    import pandas as pd

Settings = Mapping[str, Any]

__all__ = [
    "STATUSES", "Bottleneck", "BottleneckLike", "Settings", "at_step", "checked_step", "default_step",
    "find_bottleneck", "largest_radius", "ordered_groups", "read_setting", "require_columns", "sample_note",
]  # fmt: skip

STATUSES = ("ok", "no_signal", "above_max_radius", "undefined")


class Bottleneck(NamedTuple):
    """The step and the group whose COR is lowest."""

    step: int
    group: str


def require_columns(frame: "pd.DataFrame", columns: Sequence[str], what: str) -> None:
    """Check that a table can be drawn.

    Args:
        frame: Table from a report.
        columns: Columns that the figure reads.
        what: Name of the table, for the message.

    Raises:
        ValueError: A column is missing, the table is empty, or a status is unknown.
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(
            f"{what}: expected the columns {', '.join(columns)}, got {', '.join(map(str, frame.columns)) or 'none'}; "
            f"missing: {', '.join(missing)}. COR columns come from estimate_cor or probe; a report of estimate_gsnr "
            "has only GSNR columns"
        )
    if frame.empty:
        raise ValueError(f"{what}: expected at least one row, got an empty table; measure a step first")
    unknown = sorted(set(frame["status"]) - set(STATUSES)) if "status" in frame.columns else []
    if unknown:
        raise ValueError(
            f"{what}: expected one of the statuses {', '.join(STATUSES)}, got {', '.join(map(repr, unknown))}; pass "
            "the tables of a report"
        )


def read_setting(settings: Settings, key: str) -> Any:
    """Return one entry of ``report.settings``.

    Raises:
        ValueError: The entry is missing.
    """
    if key not in settings:
        raise ValueError(
            f"expected settings[{key!r}], got settings with {', '.join(settings) or 'nothing'}; pass report.settings"
        )
    return settings[key]


def largest_radius(settings: Settings) -> float:
    """Return the largest radius tried, where layers without a crossing are drawn."""
    return float(max(read_setting(settings, "radii")))


def ordered_groups(frame: "pd.DataFrame") -> list[str]:
    """Return the groups by depth, ties by first appearance.

    Example:
        >>> import pandas as pd
        >>> ordered_groups(pd.DataFrame({"group": ["head", "stem"], "depth": [1, 0]}))
        ['stem', 'head']
    """
    return list(frame.sort_values("depth", kind="stable")["group"].drop_duplicates())


def at_step(frame: "pd.DataFrame", step: int) -> "pd.DataFrame":
    """Return the rows of one step in depth order.

    Raises:
        ValueError: The step was not measured.
    """
    rows = frame[frame["step"] == step]
    if rows.empty:
        measured = ", ".join(str(known) for known in sorted(set(frame["step"])))
        raise ValueError(f"expected one of the measured steps {measured}, got {step}; pass step=None for the default")
    return rows.sort_values("depth", kind="stable") if "depth" in rows.columns else rows


def checked_step(
    layers: "pd.DataFrame", columns: Sequence[str], what: str, step: int | None
) -> "tuple[int, pd.DataFrame]":
    """Check a table, and return a step (None: that of the lowest COR) with its rows in depth order, numbered from 0."""
    require_columns(layers, columns, what)
    step = default_step(layers) if step is None else step
    return step, at_step(layers, step).reset_index(drop=True)


def find_bottleneck(layers: "pd.DataFrame", totals: "pd.DataFrame | None" = None) -> Bottleneck | None:
    """Find the step of the lowest COR and the group that is lowest at that step.

    The step is that of the lowest COR of the whole model if `totals` has one, else that of the lowest COR of any
    group. Only rows with status ``ok`` count.

    Args:
        layers: Table with a row per (step, group).
        totals: Table with a row per step for the whole model.

    Returns:
        The bottleneck, or None if no group has a COR.

    Example:
        >>> import pandas as pd
        >>> layers = pd.DataFrame({"step": [0, 0, 9, 9], "group": ["a", "b"] * 2,
        ...                        "cor": [0.3, 0.2, 0.1, 0.4], "status": "ok"})
        >>> find_bottleneck(layers)
        Bottleneck(step=9, group='a')
    """
    usable = layers[(layers["status"] == "ok") & layers["cor"].notna()]
    whole = usable if totals is None else totals[(totals["status"] == "ok") & totals["cor"].notna()]
    if not whole.empty:
        step = whole["step"].iloc[int(np.argmin(whole["cor"]))]
        here = usable[usable["step"] == step]
        usable = here if not here.empty else usable
    if usable.empty:
        return None
    lowest = usable.iloc[int(np.argmin(usable["cor"]))]
    return Bottleneck(int(lowest["step"]), str(lowest["group"]))


def default_step(layers: "pd.DataFrame") -> int:
    """Return the bottleneck step, or the last measured step if there is no COR."""
    found = find_bottleneck(layers) if {"cor", "status"} <= set(layers.columns) else None
    return int(layers["step"].max()) if found is None else found.step


def sample_note(frame: "pd.DataFrame", settings: Settings) -> str:
    """Return the number of samples and the interval level of a figure, in words.

    Example:
        >>> import pandas as pd
        >>> sample_note(pd.DataFrame({"num_samples": [512, 512]}), {"confidence": 0.95})
        'n = 512, 95 % intervals'
    """
    counts = frame["num_samples"] if "num_samples" in frame.columns else [read_setting(settings, "num_samples")]
    low, high = int(np.min(counts)), int(np.max(counts))
    samples = f"{low}" if low == high else f"{low}–{high}"
    return f"n = {samples}, {100 * float(read_setting(settings, 'confidence')):g} % intervals"
