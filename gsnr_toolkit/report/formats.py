"""Output formats of a report: a new format is one file with a writer, and one row of ``FORMATS``.

A writer takes the report and a path and returns the files that it wrote. It is named by a string, so that listing the
formats loads neither pandas nor matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gsnr_toolkit.support.atomic import make_folder, write_text
from gsnr_toolkit.support.lookup import Registry, load_target

if TYPE_CHECKING:
    from gsnr_toolkit.report.like import ReportLike


@dataclass(frozen=True)
class Format:
    """One output format.

    Attributes:
        writer: ``"module:function"`` of ``write(report, path) -> list[Path]``.
        file: Name of the file in the folder of a run; empty for a writer of several files, which gets the folder.
    """

    writer: str
    file: str = ""


FORMATS: Registry[Format] = Registry(
    "output format",
    {
        "tables": Format("gsnr_toolkit.report.formats:write_tables"),
        "figures": Format("gsnr_toolkit.report.plots.save_all:save_plots"),
        "html": Format("gsnr_toolkit.report.pages.probe:write_probe_page", "report.html"),
        "json": Format("gsnr_toolkit.report.formats:write_json_document", "document.json"),
        "markdown": Format("gsnr_toolkit.report.markdown:write_markdown", "report.md"),
    },
)


def write_formats(report: ReportLike, folder: str | Path, names: Iterable[str]) -> list[Path]:
    """Write a report in several formats; a file of an earlier report is replaced.

    Args:
        report: The report.
        folder: Folder of the run, created if missing.
        names: Names of ``FORMATS``, in the order in which to write.

    Returns:
        The files written.
    """
    rows = [FORMATS[name] for name in names]  # an unknown name is an error before anything is written
    folder = Path(folder)
    make_folder(folder)
    return [path for row in rows for path in load_target(row.writer)(report, folder / row.file)]


def write_tables(report: ReportLike, folder: Path) -> list[Path]:
    """Write ``report.json`` and one CSV file per table."""
    report.save(folder, overwrite=True)
    return [folder / name for name in ("report.json", "layers.csv", "totals.csv", "drift.csv", "trajectory.csv")]


def write_json_document(report: ReportLike, path: Path) -> list[Path]:
    """Write what ``gsnr-probe --json`` prints."""
    write_text(path, report.to_json() + "\n")
    return [path]
