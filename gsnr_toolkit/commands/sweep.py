"""``gsnr-sweep``: train a grid of runs over radius, data, tuning and seed, and find the radius of collapse."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsnr_toolkit.commands.common import run_command
from gsnr_toolkit.errors import ProbeError

if TYPE_CHECKING:
    import pandas as pd

    from gsnr_toolkit.sweeps.grid import Grid

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_show_locals=False)

_AXES, _WORK, _OUTPUT = "Grid (separate values with commas; every combination is run)", "Work", "Output"
_TWICE = "expected {0} once, got it as {1} and as {2}; leave one of them out"


def _opt(panel: str, text: str, *names: str, **extra: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **extra)


@app.callback(invoke_without_command=True)
def sweep_command(
    context: typer.Context,
    data: Annotated[str | None, _opt(_AXES, "Data sets. Default: demo-nt.", "--data", "-d")] = None,
    rho: Annotated[
        str | None, _opt(_AXES, "SAM radii; 0 for none, 'auto' for one that needs no number. Default: 0.")
    ] = None,
    tuning: Annotated[str | None, _opt(_AXES, "What is trained: head, norms, last-K, full. Default: full.")] = None,
    seeds: Annotated[int | None, _opt(_AXES, "Number of seeds: 0, 1, ... Default: 1.")] = None,
    seed: Annotated[str | None, _opt(_AXES, "The seeds themselves, instead of their number.")] = None,
    model: Annotated[str | None, _opt(_AXES, "Models. Default: clip-demo.", "--model", "-m")] = None,
    steps: Annotated[str | None, _opt(_AXES, "Training steps. Default: 300.")] = None,
    lr: Annotated[str | None, _opt(_AXES, "Learning rates. Default: 3e-4.")] = None,
    batch_size: Annotated[str | None, _opt(_AXES, "Batch sizes. Default: 32.", "--batch-size", "-b")] = None,
    strength: Annotated[str | None, _opt(_AXES, "Strengths of the embedded forgeries. Default: 1.")] = None,
    label_noise: Annotated[str | None, _opt(_AXES, "Shares of training labels that are flipped. Default: 0.")] = None,
    record_every: Annotated[
        str | None, _opt(_AXES, "Steps between records of GSNR and COR (diamonds in the figure). Default: 0, none.")
    ] = None,
    record_plain: Annotated[
        bool, _opt(_AXES, "Record only the runs with rho = 0; recording costs more than training.", "--record-plain")
    ] = False,
    settings: Annotated[
        list[str] | None, _opt(_AXES, "FIELD=VALUE[,VALUE...] for any other setting; see --list.", "--set")
    ] = None,
    evaluate: Annotated[
        str | None, _opt(_AXES, "Further data sets to test every run on (not an axis).", "--eval")
    ] = None,
    config: Annotated[
        Path | None, _opt(_AXES, "TOML file with the tables base and axes; options override it.", "--config", "-c")
    ] = None,
    workers: Annotated[int | None, _opt(_WORK, "Simultaneous runs. Default: the GPUs, or cores / threads.")] = None,
    threads: Annotated[int, _opt(_WORK, "Threads per run.")] = 1,
    device: Annotated[str | None, _opt(_WORK, "cpu, cuda, cuda:1, ... Default: a GPU if there is one.")] = None,
    ray: Annotated[str | None, _opt(_WORK, "Address of a Ray cluster (auto, HOST:PORT), or local.")] = None,
    out: Annotated[Path | None, _opt(_OUTPUT, "Folder; the same command resumes the sweep.", "--out", "-o")] = None,
    overwrite: Annotated[
        bool, _opt(_OUTPUT, "Use the folder of another grid; its runs stay in runs/.", "--overwrite")
    ] = False,
    dry_run: Annotated[bool, _opt(_OUTPUT, "List the runs and their state; run nothing.", "--dry-run")] = False,
    quiet: Annotated[bool, _opt(_OUTPUT, "Print only the collapse radii.", "--quiet", "-q")] = False,
    show_list: Annotated[bool, _opt(_OUTPUT, "List every setting with its meaning and default.", "--list")] = False,
) -> None:
    """Train a detector for every combination of radius, data, tuning and seed, and report where training collapses.

    Run the same command again to resume: finished runs are skipped, interrupted ones continue. sweep.csv in the output
    folder gets a row for each run as it ends. Example:

    gsnr-sweep --data demo-nt,demo-df --rho 0,0.01,0.05 --seeds 2 --steps 200 --out sweep
    """  # noqa: DOC501 - shown by --help
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    if show_list:
        _print_settings()
        return
    if out is None:
        raise ProbeError("expected a folder for the sweep, got none; add --out DIR")
    given = {"data": data, "rho": rho, "tuning": tuning, "model": model, "steps": steps, "lr": lr, "seed": seed}
    given |= {"batch_size": batch_size, "strength": strength, "label_noise": label_noise, "record_every": record_every}
    axes = _read_axes({name: text for name, text in given.items() if text is not None}, settings or [], seeds)
    grid = _grid(config, axes, evaluate, record_plain=record_plain)
    if dry_run:
        _print_plan(grid, out, overwrite=overwrite)
        return
    work = {"workers": workers, "threads": threads, "device": device, "ray": ray}
    raise typer.Exit(_run(grid, out, overwrite=overwrite, quiet=quiet, **work))


@app.command("plot")
def plot_command(
    folder: Annotated[Path, typer.Argument(help="Folder of the sweep.", metavar="DIR")],
    rho: Annotated[float, typer.Option(help="Radius to mark; 0 marks none.")] = 0.05,
    to: Annotated[Path | None, typer.Option(help="Output path without suffix. Default: DIR/auc_radius.")] = None,
) -> None:
    """Plot AUC against the radius, with COR as diamonds and the collapse zone, as PNG and PDF."""
    from gsnr_toolkit.report.plots.style import save
    from gsnr_toolkit.sweeps.figure import plot_sweep
    from gsnr_toolkit.sweeps.table import read_table

    for path in save(plot_sweep(read_table(folder), rho=rho or None), to or folder / "auc_radius"):
        typer.echo(path)


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(help="Folder of the sweep.", metavar="DIR")],
    rho: Annotated[float, typer.Option(help="Radius to mark; 0 marks none.")] = 0.05,
    to: Annotated[Path | None, typer.Option(help="Output path. Default: DIR/report.html.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is not a sweep report.")] = False,
) -> None:
    """Write an HTML page: collapse radii, AUC against the radius, and every run with its status."""
    from gsnr_toolkit.sweeps.report_page import save_page

    typer.echo(save_page(folder, to, rho=rho or None, overwrite=overwrite))


@app.command("status")
def status_command(folder: Annotated[Path, typer.Argument(help="Folder of the sweep.", metavar="DIR")]) -> None:
    """Print the progress of a sweep, its failures, and the collapse radii so far."""
    from collections import Counter

    from gsnr_toolkit.sweeps.folder import SweepFolder
    from gsnr_toolkit.sweeps.table import read_table

    place = SweepFolder(folder)
    grid = place.load_grid()
    states = Counter(place.state(config) for config in grid.configs)
    begun = "running" if place.busy else "interrupted"
    words = {"done": "done", "begun": begun, "failed": "failed", "new": "not started"}
    counts = ", ".join(f"{states[state]} {word}" for state, word in words.items() if states[state])
    typer.echo(f"{sum(states.values())} runs: {counts}")
    if place.table_file.exists():
        table = read_table(folder)
        _print_failures(table, grid)
        _print_radii(table)


def _read_axes(given: dict[str, str], settings: list[str], seeds: int | None) -> dict[str, list[str]]:
    """Read the values of each setting, as text."""
    axes = {name: _split(f"--{name.replace('_', '-')}", text) for name, text in given.items()}
    for item in settings:
        name, equals, text = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ProbeError(f"expected --set FIELD=VALUE, got {item!r}; write --set {name or 'FIELD'}=VALUE")
        if name in axes:
            raise ProbeError(_TWICE.format(name, "an option", f"--set {item}"))
        if name == "eval_data":
            raise ProbeError(
                "expected a setting with single values, got eval_data, whose value is itself a list; use --eval, or "
                "vary it in a --config file"
            )
        axes[name] = _split(f"--set {name}", text)
    if seeds is not None:
        if "seed" in axes:
            raise ProbeError(_TWICE.format("the seeds", "--seeds", "--seed"))
        if seeds < 1:
            raise ProbeError(f"expected --seeds to be 1 or more, got {seeds}; pass the number of seeds")
        axes["seed"] = [str(number) for number in range(seeds)]
    return axes


def _split(option: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ProbeError(f"expected {option} to be values separated by commas, got {text!r}; remove empty values")
    return parts


def _grid(config: Path | None, axes: dict[str, list[str]], evaluate: str | None, *, record_plain: bool) -> Grid:
    """Build the grid from a file, whose settings the options override."""
    from gsnr_toolkit.sweeps.grid import read_grid
    from gsnr_toolkit.sweeps.grid_file import read_grid_file

    base, file_axes = ({}, {}) if config is None else read_grid_file(config)
    if evaluate is not None:
        base = {**base, "eval_data": _split("--eval", evaluate)}
        file_axes = {name: values for name, values in file_axes.items() if name != "eval_data"}
    try:
        return read_grid(base, {**file_axes, **axes}, record_plain=record_plain)
    except ProbeError as error:
        raise ProbeError(f"{config}: {error}" if config else str(error)) from None


def _run(grid: Grid, out: Path, *, overwrite: bool, quiet: bool, **work: Any) -> int:
    """Run the grid; return the exit code."""
    from gsnr_toolkit.sweeps.folder import SweepFolder
    from gsnr_toolkit.sweeps.sweep import run_grid

    added = SweepFolder(out).check(grid, overwrite=overwrite)
    if added and not quiet:
        typer.echo(f"adds to the sweep in {out}: {added}", err=True)
    try:
        table = run_grid(grid, out, overwrite=overwrite, progress=not quiet, **work)
    except KeyboardInterrupt:
        typer.echo(f"interrupted: finished runs are in {out}; run the same command again to resume", err=True)
        return EXIT_INTERRUPTED
    _print_radii(table)
    failed = _print_failures(table, grid)
    if not quiet:
        typer.echo(
            f"{out / 'sweep.csv'}: {len(table)} runs; see gsnr-sweep plot {out} and gsnr-sweep report {out}",
            err=True,
        )
    return EXIT_FAILED if failed else 0


def _print_plan(grid: Grid, out: Path, *, overwrite: bool) -> None:
    """List the runs, without durations: these are unknown before the first run has finished."""
    from gsnr_toolkit.sweeps.folder import SweepFolder
    from gsnr_toolkit.sweeps.grid import check_names, label

    check_names(grid)
    folder = SweepFolder(out)
    added = folder.check(grid, overwrite=overwrite)
    if added:
        typer.echo(f"adds to the sweep in {out}: {added}")
    configs = grid.configs
    for config in configs:
        typer.echo(f"{config.key}  {label(config, grid.shown)}: {folder.state(config)}")
    left = sum(folder.state(config) != "done" for config in configs)
    typer.echo(f"{len(configs)} runs, {left} to do")


def _print_failures(table: pd.DataFrame, grid: Grid) -> int:
    """Print failures to stderr, grouped by message; return their number."""
    failed = table[table["status"] == "failed"]
    if failed.empty:
        return 0
    from gsnr_toolkit.sweeps.grid import label

    names = {config.key: label(config, grid.shown) for config in grid.configs}
    typer.echo(f"{len(failed)} of {len(names)} runs failed:", err=True)
    for message, rows in failed.groupby("message", sort=False):
        typer.echo(f"  {'; '.join(names.get(key, key) for key in rows['key'])}: {message}", err=True)
    typer.echo("run the same command again to retry them; the others are kept", err=True)
    return len(failed)


def _print_radii(table: pd.DataFrame) -> None:
    """Print the collapse radius of each setting, identified by the settings that vary."""
    if not (table["status"] != "failed").any():
        return
    from rich.console import Console
    from rich.table import Table

    from gsnr_toolkit.sweeps.collapse import collapse_radii
    from gsnr_toolkit.sweeps.over_seeds import setting_columns

    varied = [name for name in setting_columns(table) if name == "data" or table[name].nunique(dropna=False) > 1]
    shown = Table(title="empirical collapse radius")
    for name in varied:
        shown.add_column(name)
    shown.add_column("radius", justify="right")
    shown.add_column("explanation")
    for row in collapse_radii(table).to_dict("records"):
        values = ("default" if row[name] != row[name] else str(row[name]) for name in varied)
        radius = row["empirical_radius"]
        shown.add_row(*values, "none" if radius != radius else f"{radius:g}", row["message"])
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(shown)


def _print_settings() -> None:
    from gsnr_toolkit.training.config import describe_fields

    for name, text in describe_fields().items():
        typer.echo(f"{name:<16} {text}")


def _refuse_options(context: typer.Context) -> None:
    """Raise if options of the sweep precede a subcommand, which would ignore them silently."""
    set_here = [name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"]  # type: ignore[union-attr]
    if set_here:
        raise ProbeError(
            f"expected no options before '{context.invoked_subcommand}', got {', '.join(set_here)}; remove them"
        )


def main() -> None:
    """Run the command; usage errors print one message and exit with code 2, without a traceback."""
    run_command(app)


if __name__ == "__main__":
    main()
