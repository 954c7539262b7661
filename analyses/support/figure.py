"""What the scripts of the figures share: options, tables with their provenance, caption lines, names and colours."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analyses.collapse.laboratory import common_options, read_options
from gsnr_toolkit.inputs.options import DEFAULT_RHO, default_radii
from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, save
from gsnr_toolkit.support.atomic import write_json, write_text
from gsnr_toolkit.support.provenance import environment

__all__ = [
    "COLORS",
    "FAMILIES",
    "MARKERS",
    "MEASURED",
    "NAMES",
    "caption_line",
    "data_words",
    "family_of",
    "over_seeds",
    "read_table",
    "run_figure",
    "save_figure",
    "store",
]

FAMILIES = ("df", "fs", "f2f", "nt")
"""The four families, as the paper orders its data sets: from the most to the least semantic forgery."""

NAMES = {"df": "Deepfakes", "fs": "FaceSwap", "f2f": "Face2Face", "nt": "NeuralTextures"}
"""What a family imitates."""

COLORS = {
    "df": OKABE_ITO["blue"],
    "fs": OKABE_ITO["green"],
    "f2f": OKABE_ITO["orange"],
    "nt": OKABE_ITO["vermillion"],
}
MARKERS = {"df": "o", "fs": "s", "f2f": "^", "nt": "D"}

MEASURED: dict[str, Any] = {"rho": DEFAULT_RHO, "radii": list(default_radii(DEFAULT_RHO)), "confidence": 0.95}
"""Settings of the recorded reports that the plots of the toolkit ask for."""

DIGITS = "%.6g"
PNG_DPI = 200
CHARACTERS_PER_INCH = 22  # of a caption line


def run_figure(
    compute: Callable[[argparse.Namespace], None],
    plot: Callable[[Path], None],
    description: str | None,
    arguments: list[str] | None,
) -> None:
    """Read the command line of a figure's script; compute its tables unless they are only to be drawn, and draw.

    Args:
        compute: Writes tables to the folder ``out`` of the options.
        plot: Draws from that folder.
        description: The script's docstring.
        arguments: Of the command line; those of the process when None.
    """
    chosen = read_options(common_options(description), arguments)
    if not chosen.replot:
        chosen.out.mkdir(parents=True, exist_ok=True)
        compute(chosen)
    plot(chosen.out)


def store(out: Path, name: str, tables: Mapping[str, pd.DataFrame], **settings: Any) -> None:
    """Write tables as CSV with six digits, and where they came from as JSON.

    Args:
        out: Folder.
        name: The figure's name.
        tables: By suffix: ``""`` is ``NAME.csv``, ``"_x"`` is ``NAME_x.csv``.
        **settings: What decided the numbers.
    """
    out.mkdir(parents=True, exist_ok=True)
    for suffix, table in tables.items():
        write_text(out / f"{name}{suffix}.csv", table.to_csv(index=False, float_format=DIGITS))
    write_json(out / f"{name}.json", {**environment(), **settings})


def read_table(out: Path, name: str) -> pd.DataFrame:
    """Read a stored table.

    Args:
        out: Folder.
        name: Without suffix.

    Returns:
        The table; empty fields are NaN.

    Raises:
        FileNotFoundError: It was not computed yet.
    """
    path = out / f"{name}.csv"
    if not path.exists():
        raise FileNotFoundError(f"expected the table {path}; run the script without --replot first")
    return pd.read_csv(path)


def save_figure(figure: Figure, out: Path, name: str, caption: str) -> None:
    """Write a figure as PNG and PDF beside the folder of the tables, its caption line at the bottom.

    Args:
        figure: The figure.
        out: Folder of the tables.
        name: The figure's name.
        caption: Data, n and intervals.
    """
    width = int(CHARACTERS_PER_INCH * figure.get_figwidth())
    figure.supxlabel(textwrap.fill(caption, width), fontsize=6, color=MUTED, x=0.01, ha="left")
    for path in save(figure, out.parent / name, dpi=PNG_DPI):
        sys.stdout.write(f"{path}\n")


def caption_line(words: str, *parts: str) -> str:
    """One line under a figure: the data first.

    Returns:
        Sentences.

    >>> caption_line("embedded data", "n = 256 images", "2 seeds")
    'Data: embedded data. n = 256 images, 2 seeds.'
    """
    return f"Data: {words}. {', '.join(parts)}."


def data_words(names: Sequence[str]) -> str:
    """What a caption calls data sets.

    Args:
        names: As in a config.

    Returns:
        ``"embedded data"`` where all are, else the names.

    >>> data_words(["demo-df", "demo-nt"]), data_words(["df", "nt"])
    ('embedded data', 'FaceForensics++ (Deepfakes, NeuralTextures)')
    """
    if all(name.startswith("demo-") for name in names):
        return "embedded data"
    known = [NAMES[name] for name in names if name in NAMES]
    others = [name for name in names if name not in NAMES]
    return "; ".join(([f"FaceForensics++ ({', '.join(known)})"] if known else []) + others)


def family_of(name: str) -> str:
    """The family of a data set.

    Returns:
        Its name without ``demo-``.

    >>> family_of("demo-nt"), family_of("nt")
    ('nt', 'nt')
    """
    return name.removeprefix("demo-")


def over_seeds(table: pd.DataFrame, by: Sequence[str], quantity: str) -> pd.DataFrame:
    """Mean of a quantity over seeds; its interval reaches over the intervals of all seeds.

    Two or three seeds tell little about their spread, and each seed's own interval tells about samples alone: from the
    lowest limit to the highest is the honest range.

    Args:
        table: With the quantity, its ``_low`` and ``_high``, and the columns ``by``.
        by: Columns that stay.
        quantity: Such as ``"gsnr"``.

    Returns:
        One row per group: ``by``, the mean, ``_low``, ``_high`` and ``num_seeds``; NaN where a seed has no number.
    """
    low, high = f"{quantity}_low", f"{quantity}_high"
    grouped = table.groupby(list(by), sort=False)
    found = grouped.agg(num_seeds=(quantity, "size"), known=(quantity, "count")).reset_index()
    values = grouped.agg({quantity: "mean", low: "min", high: "max"}).reset_index()
    found = found.merge(values, on=list(by))
    found.loc[found["known"] < found["num_seeds"], [quantity, low, high]] = np.nan
    return found.drop(columns="known")
