"""The page of a sweep: the radius from which training collapses, the figure, and every run with its status."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.report.pages.answer import BAD, GOOD, UNSURE, Answer, Fact
from gsnr_toolkit.report.pages.cells import plain, value_table
from gsnr_toolkit.report.pages.render import render
from gsnr_toolkit.report.pages.svg import Picture, draw
from gsnr_toolkit.report.pages.write import check_page, write_page
from gsnr_toolkit.report.plots.style import root_figure
from gsnr_toolkit.sweeps.collapse import collapse_radii
from gsnr_toolkit.sweeps.figure import describe_runs, panel_settings, plot_auc_radius
from gsnr_toolkit.sweeps.folder import SweepFolder
from gsnr_toolkit.sweeps.grid import label
from gsnr_toolkit.sweeps.over_seeds import TRAINED, average_over_seeds, rows_of, setting_columns, usable_runs
from gsnr_toolkit.sweeps.report_tables import radius_table, run_table, told_columns, troubled_runs
from gsnr_toolkit.sweeps.table import read_table

if TYPE_CHECKING:
    import pandas as pd

_PARTS = (
    ("radii", "Collapse radii"),
    ("figures", "Figure"),
    ("runs", "Runs"),
    ("settings", "Settings"),
    ("caveats", "What to keep in mind"),
)
_MARKS = "Diamonds: COR of the runs without SAM, if recorded. Bars at the foot: where the threshold lies."
_MOST_SENTENCES = 6
_RESULTS = ("train_loss", "test_auc", "test_auc_low", "test_auc_high")
_CAVEATS = (
    "A collapse radius is the smallest radius of the grid at which the detectors have collapsed: over the seeds the "
    "upper 95 % limit of their test AUC is below 0.55, or no training loss has left the plateau of ln 2 by 0.01. The "
    "threshold itself lies inside the bracket, which is never narrower than the grid.",
    "With one seed the spread over seeds is not known; intervals of the AUC (DeLong) are then over images alone.",
    "COR, the diamond, orders settings; it is a certificate of descent and no radius at which training is known to "
    "fail.",
    "Radii compare only within a setting: other tunings, batch sizes and sets of perturbed parameters have other "
    "scales.",
)


def sweep_page(
    table: pd.DataFrame,
    title: str,
    *,
    names: Mapping[str, str],
    shown: Sequence[str] = ("data", "rho", "seed"),
    unfinished: Sequence[str] = (),
    grid: Mapping[str, Any] | None = None,
    rho: float | None = 0.05,
) -> str:
    """Return a sweep as one HTML page that needs no other file and requests none.

    Args:
        table: Table of the sweep, with at least one row.
        title: Title of the page.
        names: Key of a run to its name.
        shown: Settings that tell the runs apart.
        unfinished: Names of runs that have not ended.
        grid: Settings and their values.
        rho: A radius to mark in the figure; None marks none.
    """
    # If every run has failed, the table has no columns of results.
    table = table.assign(**{name: math.nan for name in _RESULTS if name not in table})
    ended = table[table["status"] != "failed"]
    radii = collapse_radii(table)
    return render(
        "sweep.html",
        kind="Sweep: test AUC against the SAM radius",
        title=title,
        subtitle=_counts(table, len(unfinished)),
        answer=_answer(radii, table) if len(ended) else Answer(UNSURE, "No run has come to an end", ()),
        facts=_facts(table, radii),
        parts_of_page=_PARTS,
        trouble=troubled_runs(table, names, unfinished),
        radii=radius_table(radii, table),
        pictures=_pictures(table, rho),
        runs=run_table(table, shown),
        settings=[value_table("Settings of the runs, and what varies", grid or {})],
        caveats=_CAVEATS,
    )


def _counts(table: pd.DataFrame, unfinished: int) -> str:
    found = Counter(str(status) for status in table["status"])
    parts = [f"{count} {status}" for status, count in found.items()]
    parts += [f"{unfinished} not ended"] if unfinished else []
    return f"{len(table) + unfinished} runs: {', '.join(parts)}"


def _answer(radii: pd.DataFrame, table: pd.DataFrame) -> Answer:
    """Return the radius from which the first setting collapses, or the statement that none does."""
    told, total = told_columns(table), len(radii)
    finite = radii[np.isfinite(radii["empirical_radius"].astype(float))].sort_values("empirical_radius")
    unknown = int(radii["empirical_radius"].isna().sum())
    rest = f" {unknown} of {total} settings have no answer; the table says why." if unknown else ""
    if not finite.empty:
        told_ones = finite[[_learns_plainly(table, row) for _, row in finite.iterrows()]]
        first = (finite if told_ones.empty else told_ones).iloc[0]
        head = f"Training collapses from ρ = {first['empirical_radius']:g} on"
        count = f"{len(finite)} of {total} settings collapse within the radii tried; the first: " if total > 1 else ""
        if told_ones.empty:
            head = "No collapse can be told: at the smallest radius no training is clearly above chance"
            return Answer(UNSURE, head, (f"{_named(first, told)}: {first['message']}.{rest}",))
        return Answer(BAD, head, (f"{count}{_named(first, told)}: {first['message']}.{rest}",))
    if unknown == total:
        sentences = [f"{_named(row, told)}: {row['message']}." for _, row in radii.head(_MOST_SENTENCES).iterrows()]
        sentences += [f"{total - _MOST_SENTENCES} more in the table below."] if total > _MOST_SENTENCES else []
        return Answer(UNSURE, "No collapse radius", tuple(sentences))
    known = radii[radii["empirical_radius"].notna()]
    least = known.loc[known["largest_radius"].idxmin()]
    states = average_over_seeds(table)["state"]
    certain = bool((states == TRAINED).all())
    head = f"No collapse up to ρ = {least['largest_radius']:g}"
    if not (states == TRAINED).any():
        head = "No collapse can be told: no training is clearly above chance"
    return Answer(GOOD if certain else UNSURE, head, (f"{_named(least, told)}: {least['message']}.{rest}",))


def _learns_plainly(table: pd.DataFrame, setting: Any) -> bool:
    """Whether the runs of a setting at its smallest radius are clearly above chance; else nothing can collapse."""
    own = rows_of(average_over_seeds(table), {name: setting[name] for name in setting_columns(table)})
    return bool(own.iloc[0]["state"] == TRAINED)


def _named(row: Any, told: Sequence[str]) -> str:
    return ", ".join(plain(row[name]) if name == "data" else f"{name} {plain(row[name])}" for name in told)


def _facts(table: pd.DataFrame, radii: pd.DataFrame) -> list[Fact]:
    runs = usable_runs(table)
    facts = [Fact("Settings", str(len(radii)), "every setting except radius and seed")]
    if not runs.empty:
        values = ", ".join(f"{value:g}" for value in sorted(runs["rho"].unique()))
        facts.append(Fact("Radii", values, "of the runs that have come to an end"))
        facts.append(Fact("Seeds", str(runs["seed"].nunique()), "of each setting, at most"))
        if "num_test" in runs:
            low, high = int(runs["num_test"].min()), int(runs["num_test"].max())
            facts.append(Fact("Test images", f"n = {low if low == high else f'{low} to {high}'}", "of each run"))
    return facts


def _pictures(table: pd.DataFrame, rho: float | None) -> list[Picture]:
    """Draw one panel per combination of the settings that vary, each narrow enough for a phone."""
    runs = usable_runs(table)
    panels, data = panel_settings(table)
    pictures = []
    for index, at in enumerate(panels or [{}]):
        title = ", ".join(f"{name} {plain(value)}" for name, value in at.items()) or "AUC against the SAM radius"
        caption = f"{describe_runs(rows_of(runs, at))}. {_MARKS}" if len(runs) else _MARKS

        def plot(at: dict[str, Any] = at, title: str = title) -> Any:
            return root_figure(plot_auc_radius(rows_of(runs, at), rho=rho, title=title, names=data))

        pictures.append(draw(f"f{index}", title, caption, plot))
    return pictures


def save_page(
    folder: str | Path, to: str | Path | None = None, *, rho: float | None = 0.05, overwrite: bool = False
) -> Path:
    """Write a sweep, finished or not, as one HTML page.

    Args:
        folder: Folder of the sweep.
        to: File to write; ``report.html`` in the folder when None.
        rho: A radius to mark in the figure; None marks none.
        overwrite: Whether a file that is not a page of this package may be replaced.

    Returns:
        The file.

    Raises:
        ProbeError: If there is no sweep or no run that has ended, or the file cannot be written.
    """
    place = SweepFolder(folder)
    grid = place.load_grid()
    configs = grid.configs
    path = check_page(Path(folder) / "report.html" if to is None else to, overwrite=overwrite)
    table = read_table(folder) if place.table_file.exists() else None
    if table is None or table.empty:
        raise ProbeError(
            f"expected a run that has ended in {folder}, got none of {len(configs)}; resume the sweep first"
        )
    ended = set(table["key"])
    page = sweep_page(
        table,
        place.path.name,
        names={config.key: label(config, grid.shown) for config in configs},
        shown=grid.shown,
        unfinished=[label(config, grid.shown) for config in configs if config.key not in ended],
        grid={name: values for part in ("axes", "base") for name, values in grid.to_dict()[part].items()},
        rho=rho,
    )
    return write_page(path, page, overwrite=overwrite)
