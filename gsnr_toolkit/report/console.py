"""A report on a terminal: tables by layer and by step, the verdict, and what each radius means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gsnr_toolkit.report.numbers import ANSWERED, beyond, cor_text, interval, limits, number
from gsnr_toolkit.report.outcome import collapse_outcome

if TYPE_CHECKING:
    from gsnr_toolkit.report.like import ReportLike


def show(report: ReportLike, console: Console) -> None:
    """Print a report."""
    console.print(layer_table(report))
    if len(report.totals) > 1:
        console.print(step_table(report))
    console.print(summary(report))


def layer_table(report: ReportLike) -> Table:
    """Return the layers at the bottleneck step, the weakest one in bold, and the whole model last."""
    step, settings = report.bottleneck.step, report.settings
    table = Table(
        title=f"{settings['model']} on {settings['data']}, step {step}",
        caption=f"{settings['num_samples']} samples, {settings['confidence']:.0%} intervals; "
        f"collapse zone: COR < {settings['rho']:g}; COR: descent is certified up to it; aligned: descent on average up "
        "to it, on these samples, which may be many times larger",
    )
    for name in ("layer", "GSNR", "COR", "aligned", "in zone"):
        table.add_column(name, justify="left" if name == "layer" else "right", no_wrap=name == "layer")
    for row in report.layers[report.layers["step"] == step].to_dict("records"):
        weakest = row["group"] == report.bottleneck.group
        table.add_row(*_cells(row, report), style="bold" if weakest else "")
    table.add_section()
    table.add_row(*_cells(report.total.to_dict(), report))
    return table


def _cells(row: dict[str, Any], report: ReportLike) -> list[str | Text]:
    above, answered = beyond(report.settings), row["status"] in ANSWERED
    aligned = number(row["alignment_radius"]) if answered else ""
    outcome = collapse_outcome(row, float(report.settings["rho"]))
    zones: dict[str, str | Text] = {"inside": Text("yes", style="red"), "outside": "no", "undecided": "undecided"}
    return [
        row["group"],
        interval(row, "gsnr"),
        cor_text(row, above),
        above if aligned == "inf" else aligned,
        zones[outcome],
    ]


def step_table(report: ReportLike) -> Table:
    """Return the whole model by step, the bottleneck step in bold."""
    table = Table(title="whole model by step")
    for name in ("step", "loss", "GSNR", "COR", "E|g_B|"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.totals.merge(report.trajectory, on="step").to_dict("records"):
        cells = interval(row, "loss"), interval(row, "gsnr"), cor_text(row, beyond(report.settings))
        style = "bold" if row["step"] == report.bottleneck.step else ""
        table.add_row(str(row["step"]), *cells, number(row["batch_grad_norm"]), style=style)
    return table


def summary(report: ReportLike) -> Group:
    """Return the verdict, the radii with their meaning, and the notes."""
    rho, total = report.settings["rho"], report.total
    colour = {"inside": "red", "outside": "green", "undecided": "yellow"}[collapse_outcome(total, float(rho))]
    lines: list[Any] = [Panel(report.verdict, title=f"rho = {rho:g}", border_style=colour)]
    if total["status"] == "ok":
        cor = interval(total, "cor")
        lines.append(f"COR            {cor}: up to this radius SAM's step is certified to descend on average")
    if (margin := report.margin) is not None:
        value = f"{number(margin.value)} {limits(margin.low, margin.high)}: " if margin.status == "ok" else ""
        lines.append(f"margin radius  {value}{margin.message}")
    lines.append(Text(f"suggestion     {report.suggestion.message}", style="bold"))
    if "loss" in report.settings:  # not in reports of older versions
        lines.append(Text(f"loss: {report.settings['loss']}", style="dim"))
    lines.append(Text(report.coverage["sentence"], style="dim"))
    lines += [Text(f"note: {note}", style="dim") for note in report.notes]
    return Group(*lines)
