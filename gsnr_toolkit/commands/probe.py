"""``gsnr-probe``: which SAM radius is safe for a model on a data set, and which layer breaks first."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from gsnr_toolkit.commands.common import run_command
from gsnr_toolkit.errors import ProbeError

EXIT_COLLAPSE, EXIT_UNDECIDED, EXIT_INTERRUPTED = 3, 4, 130

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_show_locals=False)

_INPUT, _RUN, _MEASURE, _OUTPUT = "Model and data", "Probing run", "Measurement", "Output"


def _opt(panel: str, text: str, *names: str, **extra: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **extra)


@app.command()
def probe_command(
    model: Annotated[str, _opt(_INPUT, "Model name, or module:function for your own.", "--model", "-m")] = "clip-demo",
    weights: Annotated[
        str | None, _opt(_INPUT, "open_clip tag, a local file, or 'random'. Default: the model's own.")
    ] = None,
    data: Annotated[str, _opt(_INPUT, "Data name, image-folder:PATH, or module:function.", "--data", "-d")] = "demo-nt",
    data_root: Annotated[str | None, _opt(_INPUT, "Folder of the real data sets. Default: $GSNR_DATA.")] = None,
    split: Annotated[str | None, _opt(_INPUT, "train, val or test. Default: the data set's own.")] = None,
    strength: Annotated[float | None, _opt(_INPUT, "Strength of an embedded forgery (1 = default).")] = None,
    compression: Annotated[str | None, _opt(_INPUT, "FaceForensics++ compression: raw, c23 or c40.")] = None,
    tuning: Annotated[str, _opt(_RUN, "What is trained: head, norms, last-K (blocks) or full.")] = "full",
    steps: Annotated[int, _opt(_RUN, "Plain training steps; 0 measures the model as it is.", min=0)] = 30,
    measurements: Annotated[int, _opt(_RUN, "How often to measure along the run.", min=1)] = 3,
    lr: Annotated[float | None, _opt(_RUN, "Learning rate (AdamW). Default: 1e-4, and 1e-3 for clip-demo.")] = None,
    batch_size: Annotated[int, _opt(_RUN, "Mini-batch size of training and of SAM.", "--batch-size", "-b")] = 24,
    samples: Annotated[int, _opt(_MEASURE, "Samples to measure on.", "--samples", "-n")] = 192,
    rho: Annotated[float, _opt(_MEASURE, "The SAM radius you mean to train with.")] = 0.05,
    radii: Annotated[
        str | None, _opt(_MEASURE, "Radii to try, such as 0.01,0.03,0.1. Default: six around rho.")
    ] = None,
    perturb: Annotated[str, _opt(_MEASURE, "Perturb all parameters at once, or each group alone.")] = "all",
    layerwise: Annotated[
        str, _opt(_MEASURE, "A layer's gradient: its parameters', or a readout head's.")
    ] = "parameters",
    groups: Annotated[str, _opt(_MEASURE, "Layers: block, module or parameter.")] = "block",
    include_frozen: Annotated[bool, _opt(_MEASURE, "Measure frozen parameters as if they were trained.")] = False,
    confidence: Annotated[float, _opt(_MEASURE, "Nominal coverage of intervals.")] = 0.95,
    lipschitz: Annotated[bool, _opt(_MEASURE, "Also the Lanczos radius (slow).")] = False,
    engine: Annotated[str, _opt(_MEASURE, "Per-sample gradients: auto, taps, vmap or loop.")] = "auto",
    memory: Annotated[
        str | None, _opt(_MEASURE, "Memory of a pass beside model and moments, such as 8GB. Default: a quarter of it.")
    ] = None,
    detail: Annotated[
        str, _opt(_MEASURE, "Moments of every parameter, or by group at half the memory: parameter or group.")
    ] = "parameter",
    device: Annotated[str | None, _opt(_MEASURE, "cpu, cuda, cuda:1, ... Default: a GPU if there is one.")] = None,
    dtype: Annotated[str, _opt(_MEASURE, "float32 or float64.")] = "float32",
    seed: Annotated[int, _opt(_MEASURE, "Seed of everything random.")] = 0,
    out: Annotated[
        Path | None,
        _opt(
            _OUTPUT, "Folder of the report. Default: gsnr-reports/, named by model, data and settings.", "--out", "-o"
        ),
    ] = None,
    overwrite: Annotated[bool, _opt(_OUTPUT, "Replace a report made with other settings.")] = False,
    html: Annotated[
        bool, _opt(_OUTPUT, "Also write the report as one page, report.html in the folder.", "--html")
    ] = False,
    as_json: Annotated[bool, _opt(_OUTPUT, "Print the report as JSON and nothing else on stdout.", "--json")] = False,
    quiet: Annotated[bool, _opt(_OUTPUT, "Print the verdict only.", "--quiet", "-q")] = False,
    fail_in_collapse_zone: Annotated[
        bool,
        _opt(_OUTPUT, "Exit 3 if rho lies in the collapse zone, 4 if that is undecided.", "--fail-in-collapse-zone"),
    ] = False,
    show_list: Annotated[bool, _opt(_OUTPUT, "List the models and data sets known by name.", "--list")] = False,
    version: Annotated[bool, _opt(_OUTPUT, "Print the version.", "--version")] = False,
) -> None:
    """Tell which SAM radius is safe for a model on a data set, and which layer breaks first.

    Makes a short plain training run, measures the gradient signal-to-noise ratio (GSNR) and the critical
    optimization radius (COR) of every layer along it, and says in one sentence whether rho is safe.
    Without arguments: the embedded CLIP on embedded forged faces, about a minute on two cores.
    """  # noqa: DOC501 - shown by --help
    if version or show_list:
        _print_about(show_list)
        return
    from gsnr_toolkit.commands.probe_run import ProbeRequest
    from gsnr_toolkit.gradients.memory import parse_bytes

    request = ProbeRequest(
        model=model,
        weights=weights,
        data=data,
        data_root=data_root,
        split=split,
        strength=strength,
        compression=compression,
        tuning=tuning,
        layerwise=layerwise,
        include_frozen=include_frozen,
        groups=groups,
        rho=rho,
        radii=_parse_radii(radii),
        perturb=perturb,
        steps=steps,
        measurements=measurements,
        lr=lr,
        samples=samples,
        batch_size=batch_size,
        confidence=confidence,
        engine=engine,
        memory=None if memory is None else parse_bytes(memory),
        detail=detail,
        lipschitz=lipschitz,
        device=device,
        dtype=dtype,
        seed=seed,
    )
    from gsnr_toolkit.setup.distributed import launched_group

    with launched_group(device) as ranks:
        if ranks.rank:
            _follow(request)
            return
        report, code = _run(request, out, overwrite=overwrite, as_json=as_json, quiet=quiet, html=html)
    if fail_in_collapse_zone and report is not None:
        code = collapse_code(report) or code
    raise typer.Exit(code)


def _run(request: Any, out: Path | None, *, overwrite: bool, as_json: bool, quiet: bool, html: bool) -> tuple[Any, int]:
    """Run, save after every measured step, print; a report (if any) and the exit code."""
    from rich.console import Console

    from gsnr_toolkit.commands.probe_run import check_folder, run_probe, save_run
    from gsnr_toolkit.report.pages.write import check_page, is_page

    folder = out or request.default_folder
    check_folder(folder, request, overwrite=overwrite)
    page = folder / "report.html"
    # a page of an earlier report would contradict this one: it is written anew, asked for or not
    html = html or (page.is_file() and is_page(page))
    if html:
        check_page(page, overwrite=overwrite)
    errors = Console(stderr=True, highlight=False)
    report, interrupted = None, False
    try:
        for report in run_probe(request, progress=not quiet):
            report.save(folder, overwrite=True)
    except KeyboardInterrupt:
        interrupted = True
    if report is None:
        errors.print("interrupted before the first measurement was done: nothing was written")
        return None, EXIT_INTERRUPTED
    files: list[Path] | None = None
    with suppress(KeyboardInterrupt):
        formats = ("tables", "figures", "html") if html else ("tables", "figures")
        files = save_run(report, folder, overwrite=True, formats=formats)
    _print(report, as_json=as_json, quiet=quiet)
    if files is None:
        errors.print(f"interrupted while drawing: the report is saved in {folder}, its figures are incomplete")
        return report, EXIT_INTERRUPTED
    if interrupted:
        done = ", ".join(str(step) for step in report.totals["step"])
        errors.print(f"interrupted: partial report of step {done} in {folder}")
        return report, EXIT_INTERRUPTED
    if not quiet:
        kept = sorted({path.name for path in files if path.suffix != ".pdf"})
        errors.print(f"{folder}: {', '.join(kept)} (figures also as PDF)", style="dim")
    return report, 0


def _follow(request: Any) -> None:
    """Do one process's share of the work; the first process reports."""
    from gsnr_toolkit.commands.probe_run import run_probe

    for _ in run_probe(request, progress=False):
        pass


def _print(report: Any, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        sys.stdout.write(report.to_json() + "\n")
        return
    if quiet:
        sys.stdout.write(report.verdict + "\n")
        return
    from rich.console import Console

    from gsnr_toolkit.report.console import show

    show(report, Console(highlight=False))


def collapse_code(report: Any) -> int:
    """Exit code for ``--fail-in-collapse-zone``.

    Args:
        report: A report with COR.

    Returns:
        3 if any measured step lies in the collapse zone, 130 for a partial report, 4 if COR has no answer at some
        step, 0 otherwise.
    """
    if report.totals["in_collapse_zone"].any():
        return EXIT_COLLAPSE
    if report.partial:
        return EXIT_INTERRUPTED
    return EXIT_UNDECIDED if report.totals["status"].isin(("no_signal", "undefined")).any() else 0


def _parse_radii(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ProbeError(f"expected radii as numbers with commas, such as 0.01,0.03,0.1, got {text!r}") from None


def _print_about(show_list: bool) -> None:
    from gsnr_toolkit import __version__

    typer.echo(f"gsnr-probe {__version__}")
    if show_list:
        from gsnr_toolkit.data.registry import DATASETS
        from gsnr_toolkit.models.registry import MODELS

        typer.echo("\nmodels:")
        for name in MODELS:
            typer.echo(f"  {name:<20} {MODELS[name].description}")
        for kind in dict.fromkeys(info.kind for info in DATASETS.rows.values()):
            typer.echo(f"\ndata: {kind}")
            for name, info in DATASETS.rows.items():
                if info.kind == kind:
                    typer.echo(f"  {name:<20} {info.description}")


def main() -> None:
    """Entry point: errors of use become one message and exit code 2, never a traceback."""
    run_command(app)


if __name__ == "__main__":
    main()
