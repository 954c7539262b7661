"""``gsnr-probe``: report which SAM radius is safe for a model on a data set, and which layer breaks first."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsnr_toolkit.commands.common import EXIT_INTERRUPTED, panel_option, run_command, settings_as_options
from gsnr_toolkit.commands.probe_request import API_ONLY, ProbeRequest, check_folder
from gsnr_toolkit.support.atomic import remove_partial_files
from gsnr_toolkit.support.locks import locked

if TYPE_CHECKING:
    from gsnr_toolkit.report.report import Report

EXIT_COLLAPSE, EXIT_UNDECIDED = 3, 4

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_show_locals=False)

_PANELS = {
    "Model and data": ("model", "weights", "data", "data_root", "split", "strength", "compression"),
    "Probing run": ("tuning", "steps", "measurements", "lr", "batch_size"),
    "Measurement": ("samples", "rho", "radii", "perturb", "layerwise", "groups", "include_frozen"),  # and all others
}
_SHORT = {"model": "-m", "data": "-d", "batch_size": "-b", "samples": "-n"}
_OUTPUT = "Output"


@app.command()
@settings_as_options(
    ProbeRequest.options,
    ProbeRequest,
    panels=_PANELS,
    short=_SHORT,
    leave_out=("options", *API_ONLY),
    text=("memory",),
)
def probe_command(
    settings: dict[str, Any],
    *,
    out: Annotated[
        Path | None,
        panel_option(
            _OUTPUT, "Folder of the report. Default: gsnr-reports/, named by model, data and settings.", "--out", "-o"
        ),
    ] = None,
    overwrite: Annotated[bool, panel_option(_OUTPUT, "Replace a report made with other settings.")] = False,
    html: Annotated[
        bool, panel_option(_OUTPUT, "Also write the report as one page, report.html in the folder.", "--html")
    ] = False,
    formats: Annotated[
        str | None, panel_option(_OUTPUT, "Further formats to write, with commas, such as markdown,json.", "--format")
    ] = None,
    as_json: Annotated[
        bool, panel_option(_OUTPUT, "Print the report as JSON and nothing else on stdout.", "--json")
    ] = False,
    quiet: Annotated[bool, panel_option(_OUTPUT, "Print the verdict only.", "--quiet", "-q")] = False,
    fail_in_collapse_zone: Annotated[
        bool,
        panel_option(_OUTPUT, "Exit 3 inside the collapse zone, 4 if undecided.", "--fail-in-collapse-zone"),
    ] = False,
    show_list: Annotated[bool, panel_option(_OUTPUT, "List the models and data sets known by name.", "--list")] = False,
    version: Annotated[bool, panel_option(_OUTPUT, "Print the version.", "--version")] = False,
) -> None:
    """Report which SAM radius is safe for a model on a data set, and which layer breaks first.

    Trains the model without SAM for a few steps. Along the way, measures the
    gradient signal-to-noise ratio (GSNR) and the critical optimization radius
    (COR) of every layer. Ends with what is certified, what is expected, and a radius
    to train with.

    Without arguments: the embedded CLIP on embedded forged faces, about a minute
    on two cores.
    """  # noqa: DOC501 - shown by --help
    if version or show_list:
        _print_about(show_list)
        return
    from gsnr_toolkit.setup.distributed import launched_group

    request = _read_request(settings)
    with launched_group(request.device) as ranks:
        if ranks.rank:
            _follow(request)
            return
        further = tuple(name.strip() for name in formats.split(",")) if formats else ()
        report, code = _run(request, out, overwrite=overwrite, as_json=as_json, quiet=quiet, html=html, further=further)
    if fail_in_collapse_zone and report is not None:
        code = collapse_code(report) or code
    raise typer.Exit(code)


def _read_request(settings: dict[str, Any]) -> ProbeRequest:
    """Build the request from the values that typer read."""
    from gsnr_toolkit.gradients.memory import parse_bytes

    optional = {item.name for item in fields(ProbeRequest) if item.default is None}
    # a script may pass --device "$DEVICE" with an empty variable, which means the default
    settings = {name: None if name in optional and value == "" else value for name, value in settings.items()}
    memory = settings["memory"]
    return ProbeRequest.of(**settings | {"memory": None if memory is None else parse_bytes(memory)})


def _run(
    request: ProbeRequest,
    out: Path | None,
    *,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    html: bool,
    further: Sequence[str],
) -> tuple[Report | None, int]:
    """Measure, save after every measured step, and print.

    Returns:
        The report, or None if there is none; and the exit code.
    """
    from rich.console import Console

    from gsnr_toolkit.report.formats import FORMATS
    from gsnr_toolkit.report.pages.write import check_page, is_page

    folder = out or request.default_folder
    check_folder(folder, request, overwrite=overwrite)
    page = folder / "report.html"
    # the page of an earlier report would contradict this one, so it is rewritten even without --html
    html = html or (page.is_file() and is_page(page))
    if html:
        check_page(page, overwrite=overwrite)
    formats = list(dict.fromkeys(["tables", "figures", *(["html"] if html else []), *further]))
    for name in formats:
        FORMATS[name]  # an unknown name is an error before any work
    errors = Console(stderr=True, highlight=False)
    with locked(folder):
        remove_partial_files(folder)
        report, files, interrupted = _measure(request, folder, formats, quiet=quiet)
    if report is None:
        errors.print("interrupted before the first measurement ended: nothing was written")
        return None, EXIT_INTERRUPTED
    _print(report, as_json=as_json, quiet=quiet)
    if files is None:
        errors.print(f"interrupted while drawing: the report is saved in {folder}, its figures are incomplete")
        return report, EXIT_INTERRUPTED
    if interrupted:
        done = ", ".join(str(step) for step in report.totals["step"])
        errors.print(f"interrupted: partial report of step {done} in {folder}")
        return report, EXIT_INTERRUPTED
    if not quiet:
        names = sorted({path.name for path in files if path.suffix != ".pdf"})
        errors.print(f"{folder}: {', '.join(names)} (figures also as PDF)", style="dim")
    return report, 0


def _measure(
    request: ProbeRequest, folder: Path, formats: Sequence[str], *, quiet: bool
) -> tuple[Report | None, list[Path] | None, bool]:
    """Measure, save after every measured step, and write the formats.

    Returns:
        The report, or None if there is none yet; the files, or None if Ctrl-C came while they were written; and whether
        Ctrl-C ended the measurement.
    """
    from gsnr_toolkit.commands.probe_run import run_probe
    from gsnr_toolkit.report.formats import write_formats

    report, interrupted = None, False
    try:
        for report in run_probe(request, progress=not quiet):
            report.save(folder, overwrite=True)
    except KeyboardInterrupt:
        interrupted = True
    files: list[Path] | None = None
    if report is not None:
        with suppress(KeyboardInterrupt):
            files = write_formats(report, folder, formats)
    return report, files, interrupted


def _follow(request: ProbeRequest) -> None:
    """Do this process's share of the work; the first process reports."""
    from gsnr_toolkit.commands.probe_run import run_probe

    for _ in run_probe(request, progress=False):
        pass


def _print(report: Report, *, as_json: bool, quiet: bool) -> None:
    if as_json or quiet:
        sys.stdout.write((report.to_json() if as_json else report.verdict) + "\n")
        return
    from rich.console import Console

    from gsnr_toolkit.report.console import show

    show(report, Console(highlight=False))


def collapse_code(report: Report) -> int:
    """Return the exit code for ``--fail-in-collapse-zone``.

    Args:
        report: A report with COR.

    Returns:
        3 if rho lies in the collapse zone at any measured step, 130 for a partial report, 4 if some step
        is undecided, 0 otherwise.
    """
    if "inside" in report.outcomes:
        return EXIT_COLLAPSE
    if report.partial:
        return EXIT_INTERRUPTED
    return EXIT_UNDECIDED if "undecided" in report.outcomes else 0


def _print_about(show_list: bool) -> None:
    """Print the version and, on request, the models and data sets known by name."""
    from gsnr_toolkit import __version__

    typer.echo(f"gsnr-probe {__version__}")
    if not show_list:
        return
    from gsnr_toolkit.data.registry import DATASETS
    from gsnr_toolkit.models.registry import MODELS

    parts = {"models:": {name: MODELS[name].description for name in MODELS}}
    for name, info in DATASETS.rows.items():
        parts.setdefault(f"data: {info.kind}", {})[name] = info.description
    for title, rows in parts.items():
        typer.echo(f"\n{title}")
        for name, text in rows.items():
            typer.echo(f"  {name:<20} {text}")


def main() -> None:
    """Run ``gsnr-probe``; a usage error ends as one message and exit code 2, without a traceback."""
    run_command(app)


if __name__ == "__main__":
    main()
