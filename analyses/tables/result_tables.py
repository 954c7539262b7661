"""Tables of results as Markdown, CSV and LaTeX: ours on embedded data, and published numbers marked as such.

Claim (the paper's tables): CoRIT against its competitors, across data sets and generators. Command:
``python -m analyses.tables.result_tables`` (``--replot`` does the same; nothing is trained). Hardware: seconds. Obtained: from
the studies' stored tables what was measured here on embedded data (``own_tables``); on real data published numbers of
other methods, which ours join from ``figures/data/results.csv`` (``benchmark, metric, method, test, value`` and, if
there are several, ``seed``): no run on embedded data writes that file, so the two are never mixed. Files:
``figures/data/table_*.md``, ``.csv`` and ``.tex`` (booktabs).
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pandas as pd

from analyses.support.figure import run_figure
from analyses.tables.own_tables import own_tables
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.atomic import write_text

__all__ = ["PUBLISHED", "beside_published", "write_tables"]

PUBLISHED = Path(__file__).with_name("published.csv")
"""Numbers of other methods as their authors reported them; nothing in it was measured here."""

NEEDED = ("benchmark", "metric", "method", "test", "value")
OURS, SOURCE = "measured here", "source"


def beside_published(results: pd.DataFrame | None, published: Path = PUBLISHED) -> dict[str, pd.DataFrame]:
    """Put measured and published numbers into one table for each benchmark.

    Args:
        results: Tidy rows with the columns of :data:`NEEDED`; several seeds are averaged. None for none.
        published: CSV file with those columns, ``venue`` and ``source``.

    Returns:
        By benchmark: a row per method, a column per test set, and where each row comes from.

    Raises:
        ProbeError: A column is missing.

    >>> tables = beside_published(None)
    >>> tables["FF++ c23"].loc["Effort", "source"], float(tables["FF++ c23"].loc["Effort", "CDFv2"])
    ('reported by Effort (ICML 2025)', 95.6)
    """
    reported = pd.read_csv(published, keep_default_na=False)
    venue = reported["venue"].map(lambda text: f" ({text})" if text else "")
    # a source that names its year needs no second one
    venue = venue.where(
        [text not in source for text, source in zip(reported["venue"], reported["source"], strict=True)], ""
    )
    rows = reported.assign(source="reported by " + reported["source"] + venue)
    if results is not None:
        missing = [name for name in NEEDED if name not in results]
        if missing:
            raise ProbeError(
                f"expected results with the columns {', '.join(NEEDED)}, got none called {', '.join(missing)}; rename "
                "the columns of the table, one row per method, test set and seed"
            )
        rows = pd.concat([results.assign(source=OURS), rows], ignore_index=True)
    return {str(name): _wide(part) for name, part in rows.groupby("benchmark", sort=False)}


def _wide(rows: pd.DataFrame) -> pd.DataFrame:
    tests = list(rows["test"].drop_duplicates())
    table = rows.pivot_table(index=["method", "source"], columns="test", values="value", aggfunc="mean", sort=False)
    return table.reindex(columns=tests).reset_index(level="source")[[*tests, "source"]]


def write_tables(table: pd.DataFrame, stem: Path, caption: str) -> list[Path]:
    """Write a table in three formats.

    Args:
        table: Methods by test sets.
        stem: Path without suffix.
        caption: What the numbers are.

    Returns:
        The files: Markdown, CSV and LaTeX.
    """
    tidy = table.rename_axis(columns=None).reset_index()
    latex = tidy.to_latex(
        index=False, na_rep="--", float_format="%.1f", caption=caption, escape=True, position="t",
        label=f"tab:{stem.name}",
    )  # fmt: skip
    texts = {".md": f"{caption}\n\n{markdown(tidy)}", ".csv": tidy.to_csv(index=False), ".tex": latex}
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + suffix) for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def markdown(table: pd.DataFrame) -> str:
    r"""A table as Markdown, one decimal for numbers and a dash for what is missing.

    (pandas' own writer would need the package tabulate.)

    Args:
        table: Any.

    Returns:
        Lines.

    >>> print(markdown(pd.DataFrame({"method": ["a|b"], "AUC": [95.64]})))
    | method | AUC |
    | --- | --- |
    | a\|b | 95.6 |
    <BLANKLINE>
    """
    rows = [list(table.columns), ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "".join(f"| {' | '.join(_cell(value) for value in row)} |\n" for row in rows)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if value == value else "–"
    return str(value).replace("|", "\\|")


def compute(chosen: argparse.Namespace) -> None:
    """Nothing is computed.

    Args:
        chosen: Options of the script.
    """
    del chosen


def plot(out: Path) -> None:
    """Write every table that there are numbers for.

    Args:
        out: Folder of the tables.
    """
    own = out / "results.csv"
    results = pd.read_csv(own) if own.exists() else None
    metrics = pd.read_csv(PUBLISHED).groupby("benchmark")["metric"].first()
    for benchmark, table in beside_published(results).items():
        name = re.sub(r"[^a-z0-9]+", "_", benchmark.lower()).strip("_")
        caption = f"{benchmark}: {metrics.get(benchmark, 'score')} in %. Rows 'reported by' were not measured here."
        _write(table, out / f"table_{name}", caption)
    for name, (table, caption) in own_tables(out).items():
        _write(table, out / f"table_{name}", caption)


def _write(table: pd.DataFrame, stem: Path, caption: str) -> None:
    for path in write_tables(table, stem, caption):
        sys.stdout.write(f"{path}\n")


def main(arguments: list[str] | None = None) -> None:
    """Run the script.

    Args:
        arguments: Of the command line; those of the process when None.
    """
    run_figure(compute, plot, __doc__, arguments)


if __name__ == "__main__":
    main()
