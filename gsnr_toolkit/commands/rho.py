"""``gsnr-rho``: find the SAM radius at which a model still trains, by short runs."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsnr_toolkit.commands.common import EXIT_INTERRUPTED, panel_option, run_command, settings_as_options
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.training.config import TrainConfig

if TYPE_CHECKING:
    from gsnr_toolkit.search.result import RhoSearch
    from gsnr_toolkit.training.setup import TrainingData
    from gsnr_toolkit.types import Batch

EXIT_NONE = 1

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_show_locals=False)

_PANELS = {
    "Model and data": ("model", "weights", "data", "data_root", "compression", "strength", "train_samples"),
    "Training": ("tuning", "optimizer", "lr", "weight_decay", "momentum", "batch_size", "label_noise", "method",
                 "perturb", "seed"),
}  # fmt: skip
_SHORT = {"model": "-m", "data": "-d", "batch_size": "-b"}
_USED = {name for names in _PANELS.values() for name in names}
_SEARCH, _OUTPUT = "Search", "Output"


@app.command()
@settings_as_options(
    TrainConfig,
    panels=_PANELS,
    short=_SHORT,
    leave_out=[item.name for item in fields(TrainConfig) if item.name not in _USED],
)
def rho_command(
    settings: dict[str, Any],
    *,
    radii: Annotated[
        str | None, panel_option(_SEARCH, "Radii to test, with commas. Default: found by bisection.", "--radii")
    ] = None,
    seeds: Annotated[int, panel_option(_SEARCH, "Runs per radius.")] = 1,
    horizon: Annotated[
        float, panel_option(_SEARCH, "A run must leave the plateau within so many times the plain run's steps there.")
    ] = 5.0,
    precision: Annotated[
        float, panel_option(_SEARCH, "Ratio of failing to training radius at which the search stops.")
    ] = 1.5,
    max_steps: Annotated[int | None, panel_option(_SEARCH, "Budget of steps over all runs.")] = None,
    max_minutes: Annotated[float | None, panel_option(_SEARCH, "Budget of time.")] = None,
    device: Annotated[str | None, panel_option(_SEARCH, "Where to train. Default: a GPU if there is one.")] = None,
    out: Annotated[
        Path | None, panel_option(_OUTPUT, "Folder of the runs and the result; a killed search goes on.", "--out", "-o")
    ] = None,
    plot: Annotated[bool, panel_option(_OUTPUT, "Also draw the curve, rho.png, in the folder.", "--plot")] = False,
    as_json: Annotated[
        bool, panel_option(_OUTPUT, "Print the result as JSON and nothing else on stdout.", "--json")
    ] = False,
    quiet: Annotated[bool, panel_option(_OUTPUT, "Print the answer only.", "--quiet", "-q")] = False,
) -> None:
    """Find the SAM radius at which a model still trains: a range test.

    A plain run tells how long the model stays on the plateau of a constant
    prediction. Short SAM runs from the same start then bracket the radius beyond
    which it no longer leaves. The last line says what to train with.

    Exit codes: 0 a radius is suggested, 1 none is, 2 usage error, 130 interrupted.
    """  # noqa: DOC501 - shown by --help
    if plot and out is None:
        raise ProbeError("expected a folder for the figure, got none; add --out DIR, or leave --plot out")
    config = TrainConfig(**{name: value for name, value in settings.items() if value is not None})
    search = {"radii": None if radii is None else _numbers(radii), "seeds": seeds, "horizon": horizon}
    search |= {"precision": precision, "max_steps": max_steps, "max_minutes": max_minutes}
    found = _search(config, device, folder=out, progress=not quiet, **search)
    if plot and out is not None:
        from gsnr_toolkit.report.plots.style import save

        save(found.plot(), out / "rho")
    _print(found, as_json=as_json, quiet=quiet)
    if found.status == "interrupted":
        raise typer.Exit(EXIT_INTERRUPTED)
    raise typer.Exit(0 if found.rho else EXIT_NONE)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ProbeError(
            f"expected --radii to be numbers separated by commas, got {text!r}; pass --radii 0.02,0.05,0.1"
        ) from None


@dataclass(frozen=True)
class _Batches:
    """Training batches that can be read again from the start."""

    data: TrainingData

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.data.batches(start=0))


def _search(config: TrainConfig, device: str | None, **search: Any) -> RhoSearch:
    """Build the model and open the data of a config, and search."""
    from gsnr_toolkit.inputs.tuning import parse_tuning, set_tuning
    from gsnr_toolkit.models.registry import build_model
    from gsnr_toolkit.search.find import find_rho
    from gsnr_toolkit.training.resumable import choose_device
    from gsnr_toolkit.training.setup import make_optimizer, open_data

    model = build_model(config.model, weights=config.weights, seed=config.seed).to(choose_device(device))
    set_tuning(model, parse_tuning(config.tuning))
    data = open_data(config, model)
    optimizer = make_optimizer(config, model, [])
    # every batch holds both classes equally
    return find_rho(model, _Batches(data), optimizer=optimizer, plateau_loss=math.log(2), **search)


def _print(found: RhoSearch, *, as_json: bool, quiet: bool) -> None:
    advice = f"rho = {found.rho:g}" if found.rho else 'rho = "auto"'
    if as_json:
        sys.stdout.write(found.to_json() + "\n")
        return
    if not quiet:
        from rich.console import Console
        from rich.table import Table

        table = Table(title="trials", caption=f"{found.passes} forward-backward passes in all")
        for name in found.trials.columns:
            table.add_column(name.replace("_", " "), justify="right")
        for row in found.trials.itertuples(index=False):
            table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row))
        Console(highlight=False).print(table)
    sys.stdout.write(f"{found.message}\ntrain with {advice}\n")


def main() -> None:
    """Run the command; usage errors print one message and exit with code 2, without a traceback."""
    run_command(app)


if __name__ == "__main__":
    main()
