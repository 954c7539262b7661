"""Tables of results as Markdown, CSV and LaTeX: ours on embedded data, and published numbers marked as such.

Claim (the paper's tables): CoRIT against its competitors, across data sets and generators.
Command: ``python -m analyses.tables.result_tables`` (with or without ``--replot``; nothing is trained).
Hardware: any, in seconds.
Obtained: ``figures/data/table_*.md``, ``.csv`` and ``.tex`` (booktabs), discussed in ``analyses/README.md``.

The tables of our results (``own_tables``) come from the stored tables of the studies, on embedded data. The tables of
published numbers, on real data, also show our rows of ``figures/data/results.csv`` (``benchmark, metric, method, test,
value`` and, with several seeds, ``seed``). No run on embedded data writes that file, so that the two never mix.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from analyses.support.runner import run_study
from analyses.tables.own_tables import own_tables
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.atomic import write_text

PUBLISHED = Path(__file__).with_name("published.csv")
"""Results of other methods as reported by their authors; none were measured here."""

NEEDED = ("benchmark", "metric", "method", "test", "value")
OURS, SOURCE = "measured here", "source"


def beside_published(results: pd.DataFrame | None, published: Path = PUBLISHED) -> dict[str, pd.DataFrame]:
    """Return measured and published numbers by benchmark: a row per method with its source, a column per test set.

    Measured rows have the columns of :data:`NEEDED` and are averaged over seeds; None for published numbers alone.

    Raises:
        ProbeError: A column is missing.

    >>> tables = beside_published(None)
    >>> tables["FF++ c23"].loc["Effort", "source"], float(tables["FF++ c23"].loc["Effort", "CDFv2"])
    ('reported by Effort (ICML 2025)', 95.6)
    """
    reported = pd.read_csv(published, keep_default_na=False)
    venue = reported["venue"].map(lambda text: f" ({text})" if text else "")
    # Do not repeat a venue that the source already names.
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
    """Write a table, methods by test sets, as Markdown, CSV and LaTeX; return the paths, ``stem`` with each suffix."""
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
    r"""Return a table as Markdown, with one decimal for numbers and a dash for missing values.

    The writer of pandas would need the package tabulate.

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


def plot(out: Path) -> None:
    """Write every table whose numbers exist."""
    own = out / "results.csv"
    results = pd.read_csv(own) if own.exists() else None
    metrics = pd.read_csv(PUBLISHED).groupby("benchmark")["metric"].first()
    tables = {}
    for benchmark, table in beside_published(results).items():
        name = re.sub(r"[^a-z0-9]+", "_", benchmark.lower()).strip("_")
        caption = f"{benchmark}: {metrics.get(benchmark, 'score')} in %. Rows 'reported by' were not measured here."
        tables[name] = table, caption
    for name, (table, caption) in (tables | own_tables(out)).items():
        for path in write_tables(table, out / f"table_{name}", caption):
            print(path, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the script."""
    run_study(None, plot, __doc__, arguments)


if __name__ == "__main__":
    main()
