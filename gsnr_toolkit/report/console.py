"""A report on a terminal: tables by layer and by step, the verdict, the radii and what each is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gsnr_toolkit.report.verdict import interval, number

if TYPE_CHECKING:
    from gsnr_toolkit.report.report import Report

_ANSWERED = ("ok", "above_max_radius")


def show(report: Report, console: Console) -> None:
    """Print a report.

    Args:
        report: What to print.
        console: Where to.
    """
    console.print(layer_table(report))
    if len(report.totals) > 1:
        console.print(step_table(report))
    console.print(summary(report))


def layer_table(report: Report) -> Table:
    """Table of the layers at the bottleneck step, the whole model last.

    Returns:
        A rich table; the layer that loses its direction first is bold.
    """
    step, settings = report.bottleneck.step, report.settings
    table = Table(
        title=f"{settings['model']} on {settings['data']}, step {step}",
        caption=f"{settings['num_samples']} samples, {settings['confidence']:.0%} intervals; "
        f"collapse zone: COR < {settings['rho']:g}; "
        "aligned: descent on average up to this radius",
    )
    for name in ("layer", "GSNR", "COR", "aligned", "in zone"):
        table.add_column(name, justify="left" if name == "layer" else "right", no_wrap=name == "layer")
    for row in report.layers[report.layers["step"] == step].to_dict("records"):
        weakest = row["group"] == report.bottleneck.group
        table.add_row(*_cells(row, report), style="bold" if weakest else "")
    table.add_section()
    table.add_row(*_cells(report.total.to_dict(), report))
    return table


def _cells(row: dict[str, Any], report: Report) -> list[str | Text]:
    aligned = number(row["alignment_radius"]) if row["status"] in _ANSWERED else ""
    zone: str | Text = "no" if row["status"] in _ANSWERED else "undecided"
    if row["in_collapse_zone"]:
        zone = Text("yes", style="red")
    return [row["group"], _gsnr(row), _cor(row, report), _beyond(report) if aligned == "inf" else aligned, zone]


def _gsnr(row: dict[str, Any]) -> str:
    return "undefined" if row["gsnr"] != row["gsnr"] else interval(row, "gsnr")


def _cor(row: dict[str, Any], report: Report) -> str:
    if row["status"] == "ok":
        return interval(row, "cor")
    return {"no_signal": "no signal", "above_max_radius": _beyond(report)}.get(row["status"], "undefined")


def _beyond(report: Report) -> str:
    return f"> {number(report.settings['radii'][-1])}"


def step_table(report: Report) -> Table:
    """Table of the whole model by step.

    Returns:
        A rich table; the bottleneck step is bold.
    """
    table = Table(title="whole model by step")
    for name in ("step", "loss", "GSNR", "COR", "E|g_B|"):
        table.add_column(name, justify="right", no_wrap=True)
    merged = report.totals.merge(report.trajectory, on="step")
    for row in merged.to_dict("records"):
        style = "bold" if row["step"] == report.bottleneck.step else ""
        cells = (interval(row, "loss"), _gsnr(row), _cor(row, report), number(row["batch_grad_norm"]))
        table.add_row(str(row["step"]), *cells, style=style)
    return table


def summary(report: Report) -> Group:
    """Verdict, the two radii named for what they are, and notes.

    Returns:
        A rich group.
    """
    rho, zone = report.settings["rho"], bool(report.total["in_collapse_zone"])
    colour = "red" if zone else ("green" if report.total["status"] in ("ok", "above_max_radius") else "yellow")
    lines: list[Any] = [Panel(report.verdict, title=f"is rho = {rho:g} safe?", border_style=colour)]
    if report.total["status"] == "ok":
        cor = interval(report.total, "cor")
        lines.append(f"COR            {cor}: up to this radius SAM's step is certified to descend on average")
    if report.escape is not None:
        value = interval(report.escape.to_dict() | _limits(report), "value") if report.escape.status == "ok" else ""
        told = f"{value + ': ' if value else ''}{report.escape.message}"
        known = report.escape.bound > 0 and report.escape.status != "ok"
        bound = f"; it is at least {report.escape.bound:.2g}" if known else ""
        lines.append(f"escape radius  {told}{bound} (first-order, ours; no guide to the collapse so far)")
    lines.append(Text(report.coverage["sentence"], style="dim"))
    lines += [Text(f"note: {note}", style="dim") for note in report.notes]
    return Group(*lines)


def _limits(report: Report) -> dict[str, float]:
    assert report.escape is not None
    return {"value_low": report.escape.low, "value_high": report.escape.high}
