"""The page of a probe: verdict, figures, tables, settings and caveats, in this order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gsnr_toolkit.report.pages.answer import answer_of, facts_of
from gsnr_toolkit.report.pages.cells import Column, Table, plain, words
from gsnr_toolkit.report.pages.probe_figures import probe_pictures
from gsnr_toolkit.report.pages.probe_tables import every_step_table, layer_table, member_table, step_table
from gsnr_toolkit.report.pages.render import render

if TYPE_CHECKING:
    from gsnr_toolkit.report.report import Report

_PARTS = (
    ("figures", "Figures"),
    ("layers", "Layers"),
    ("steps", "Steps"),
    ("settings", "Settings"),
    ("caveats", "What to keep in mind"),
)
_COR_CAVEATS = (
    "COR is a certificate, an if and not an iff: up to it SAM's mean step descends the loss; above it descent may go "
    "on. It is no radius at which training is known to fail.",
    "Radii compare only at equal batch size, equal sets of trained parameters and equal parametrisation.",
    "The definitions of COR and of the decomposition are a reconstruction from the paper's public text (Liu et al., "
    "arXiv 2603.24057), not the paper's own formulas. The escape radius is ours.",
)
_GSNR_CAVEATS = (
    "GSNR is corrected for bias and may be negative: that means no signal above the noise floor 1/n.",
    "Samples must be independent, one frame per video or identity; intervals are too narrow otherwise.",
)


def probe_page(report: Report) -> str:
    """Write a report as one HTML page.

    Args:
        report: Of :func:`estimate_gsnr`, :func:`estimate_cor` or :func:`probe`.

    Returns:
        The page; it needs no other file and asks for none.
    """
    settings = report.settings
    return render(
        "probe.html",
        kind="Gradient signal and critical radius" if report.has_cor else "Gradient signal",
        title=f"{settings.get('model', 'model')} on {settings.get('data', 'data')}",
        subtitle=_subtitle(report),
        answer=answer_of(report),
        facts=facts_of(report),
        parts_of_page=_PARTS,
        pictures=probe_pictures(report),
        layers=layer_table(report),
        every_step=every_step_table(report),
        members=member_table(report),
        steps=step_table(report),
        settings=_settings(report),
        caveats=[*report.notes, *(_COR_CAVEATS if report.has_cor else ()), *_GSNR_CAVEATS],
    )


def _subtitle(report: Report) -> str:
    parts = [str(report.settings["caption"])] if report.settings.get("caption") else []
    parts += [report.coverage["sentence"]] if report.coverage.get("sentence") else []
    made = report.provenance.get("created")
    return ". ".join([*parts, f"Measured {made}"] if made else parts)


def _settings(report: Report) -> list[Table]:
    settings = {key: value for key, value in report.settings.items() if key != "request"}
    asked = report.settings.get("request") or {}
    settings |= {key: value for key, value in asked.items() if key not in settings}
    coverage = {key: value for key, value in report.coverage.items() if key != "sentence"}
    return [
        value_table("Every option that changes a number", settings),
        value_table("Engine and coverage", coverage),
        value_table("Where the numbers come from", report.provenance),
    ]


def value_table(caption: str, values: Mapping[str, Any]) -> Table:
    """Names and values.

    Args:
        caption: What they are.
        values: Plain values.

    Returns:
        One row per name.
    """
    rows = [[words(name), words(plain(value))] for name, value in values.items()]
    return Table(caption, (Column("name"), Column("value")), rows)
