"""The page of a probe: verdict, figures, tables, settings and caveats, in this order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gsnr_toolkit.report.pages.answer import answer_of, facts_of
from gsnr_toolkit.report.pages.cells import Table, value_table
from gsnr_toolkit.report.pages.probe_figures import probe_pictures
from gsnr_toolkit.report.pages.probe_tables import every_step_table, layer_table, member_table, step_table
from gsnr_toolkit.report.pages.render import render
from gsnr_toolkit.report.pages.write import write_page

if TYPE_CHECKING:
    from gsnr_toolkit.report.like import ReportLike

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
    "arXiv 2603.24057), not the paper's own formulas. The margin radius is ours.",
)
_GSNR_CAVEATS = (
    "GSNR is corrected for bias and may be negative: that means no signal above the noise floor 1/n.",
    "Samples must be independent, one frame per video or identity; intervals are too narrow otherwise.",
)


def probe_page(report: ReportLike) -> str:
    """Return a report as one HTML page that needs no other file and requests none."""
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


def write_probe_page(report: ReportLike, path: Path) -> list[Path]:
    """Write `probe_page` to a file, in place of any other."""
    return [write_page(path, probe_page(report), overwrite=True)]


def _subtitle(report: ReportLike) -> str:
    created = report.provenance.get("created")
    parts = (report.settings.get("caption"), report.coverage.get("sentence"), created and f"Measured {created}")
    return ". ".join(str(part) for part in parts if part)


def _settings(report: ReportLike) -> list[Table]:
    settings = {key: value for key, value in report.settings.items() if key != "request"}
    # The request holds the options as given; the settings say what they became.
    request = report.settings.get("request") or {}
    coverage = {key: value for key, value in report.coverage.items() if key != "sentence"}
    return [
        value_table(
            "Every option that changes a number", {**settings, **{k: request[k] for k in request if k not in settings}}
        ),
        value_table("Engine and coverage", coverage),
        value_table("Where the numbers come from", report.provenance),
    ]
