"""A report as Markdown: the verdict and the table of layers, for an issue or a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gsnr_toolkit.report.numbers import beyond, cor_text, interval
from gsnr_toolkit.support.atomic import write_text

if TYPE_CHECKING:
    from gsnr_toolkit.report.like import ReportLike


def to_markdown(report: ReportLike) -> str:
    """Return the verdict and one row per layer at the bottleneck step, the whole model last."""
    rows = report.layers[report.layers["step"] == report.bottleneck.step].to_dict("records")
    lines = [
        report.verdict,
        "",
        f"| layer |{' COR |' * report.has_cor} GSNR | n |",
        "|---" * (3 + report.has_cor) + "|",
    ]
    for row in [*rows, {**report.total.to_dict(), "group": "whole model"}]:
        cor = [cor_text(row, beyond(report.settings))] if report.has_cor else []
        cells = [str(row["group"]), *cor, interval(row, "gsnr"), str(int(row["num_samples"]))]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, "", *(f"Note: {note}" for note in report.notes)]).rstrip() + "\n"


def write_markdown(report: ReportLike, path: Path) -> list[Path]:
    """Write `to_markdown` to a file."""
    write_text(path, to_markdown(report))
    return [path]
