"""Tables of a probe's page: layers, steps, and what belongs to a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gsnr_toolkit.report.pages.answer import BAD, GOOD, UNSURE
from gsnr_toolkit.report.pages.cells import Cell, Column, Table, estimate, numeral, words
from gsnr_toolkit.report.verdict import number

if TYPE_CHECKING:
    from gsnr_toolkit.report.report import Report

_ANSWERED = ("ok", "above_max_radius")
WHOLE = "whole model"

_LAYER = Column("layer")
_COR = (Column("in zone"), Column("COR", numeric=True), Column("aligned up to", numeric=True))
_GSNR = (Column("GSNR", numeric=True), Column("n", numeric=True), Column("parameters", numeric=True))
_STATE = (Column("status"), Column("what it says", wide=True))
_STEP = Column("step", numeric=True)
_CAUSES = (
    Column("signal r/(1+r)", numeric=True),
    Column("misspecification m", numeric=True),
    Column("gradient norm |μ|", numeric=True),
)


def layer_table(report: Report) -> Table:
    """The layers at the bottleneck step, in depth order; the whole model below.

    Args:
        report: The report.

    Returns:
        One row per layer; the layer that loses its direction first is marked.
    """
    step, weakest = report.bottleneck.step, report.bottleneck.group
    rows = report.layers[report.layers["step"] == step].to_dict("records")
    columns = (_LAYER, *(_COR if report.has_cor else ()), *_GSNR, *_STATE)
    caption = f"{len(rows)} layers at step {step}, input to output"
    if weakest is not None:
        caption += "; framed: the layer that loses its direction first"
    return Table(
        caption,
        columns,
        [[words(row["group"]), *_numbers(report, row)] for row in rows],
        foot=[[words(WHOLE), *_numbers(report, report.total.to_dict())]],
        marked=frozenset(index for index, row in enumerate(rows) if row["group"] == weakest),
    )


def every_step_table(report: Report) -> Table | None:
    """All layers at all measured steps, with the causes of each COR.

    Args:
        report: The report.

    Returns:
        One row per layer and step; None where the other table says it all.
    """
    if not report.has_cor and report.totals["step"].nunique() < 2:
        return None
    causes = _CAUSES if report.has_cor else ()
    columns = (_LAYER, _STEP, *(_COR if report.has_cor else ()), *_GSNR, *causes, *_STATE)
    rows = [_full_row(report, row) for row in report.layers.to_dict("records")]
    return Table(f"Every layer at every measured step, and why: {len(rows)} rows", columns, rows)


def _full_row(report: Report, row: dict[str, Any]) -> list[Cell]:
    *numbers, status, message = _numbers(report, row)
    names = ("signal_fraction", "misspecification", "grad_norm") if report.has_cor else ()
    causes = [numeral(float(row[name])) for name in names]
    return [words(row["group"]), numeral(row["step"], str(int(row["step"]))), *numbers, *causes, status, message]


def _numbers(report: Report, row: dict[str, Any]) -> list[Cell]:
    cells = [zone_cell(row), cor_cell(report, row), _aligned(report, row)] if report.has_cor else []
    counts = [numeral(float(row[name]), f"{int(row[name]):,}") for name in ("num_samples", "num_params")]
    return [*cells, estimate(row, "gsnr"), *counts, words(row["status"]), words(row["message"])]


def zone_cell(row: dict[str, Any]) -> Cell:
    """Whether COR lies below rho."""
    if row["in_collapse_zone"]:
        return Cell("yes", order="0 yes", tone=BAD)
    if row["status"] in _ANSWERED:
        return Cell("no", order="2 no", tone=GOOD)
    return Cell("undecided", order="1 undecided", tone=UNSURE)


def cor_cell(report: Report, row: dict[str, Any]) -> Cell:
    """COR with its interval, or what can be said of it."""
    status = row["status"]
    if status == "ok":
        return estimate(row, "cor")
    if status == "above_max_radius":
        return Cell(_beyond(report), order=math.inf)
    if status == "no_signal" and math.isfinite(row["cor_high"]):
        return Cell("no signal", f"at most {number(row['cor_high'])}")
    return Cell(status.replace("_", " "))


def _aligned(report: Report, row: dict[str, Any]) -> Cell:
    value = float(row["alignment_radius"])
    return Cell(_beyond(report), order=math.inf) if math.isinf(value) else numeral(value)


def _beyond(report: Report) -> str:
    return f"> {number(report.settings['radii'][-1])}"


def step_table(report: Report) -> Table:
    """The whole model at each measured step.

    Args:
        report: The report.

    Returns:
        One row per step; the bottleneck step is marked.
    """
    records = report.totals.to_dict("records")
    losses, loss_cells = _losses(report)
    unknown = [Cell("–")] * len(losses)
    columns = (_STEP, *losses, *(_COR if report.has_cor else ()), *_GSNR, *_STATE)
    cells = [
        [numeral(row["step"], str(int(row["step"]))), *loss_cells.get(row["step"], unknown), *_numbers(report, row)]
        for row in records
    ]
    several = len(records) > 1 and not math.isnan(report.cor)
    marked = frozenset(i for i, row in enumerate(records) if several and row["step"] == report.bottleneck.step)
    caption = f"The whole model at {len(records)} measured step{'s' if len(records) > 1 else ''}"
    return Table(caption + ("; framed: the step of the smallest COR" if marked else ""), columns, cells, marked=marked)


def _losses(report: Report) -> tuple[list[Column], dict[int, list[Cell]]]:
    """Loss and batch gradient norm by step, as far as they were measured."""
    rows = report.trajectory.to_dict("records")
    if not rows:
        return [], {}
    columns, cells = [Column("loss, nats", numeric=True)], {row["step"]: [estimate(row, "loss")] for row in rows}
    if report.trajectory["batch_grad_norm"].notna().any():
        columns.append(Column("mean batch gradient norm", numeric=True))
        for row in rows:
            cells[row["step"]].append(numeral(float(row["batch_grad_norm"])))
    return columns, cells


def member_table(report: Report) -> Table | None:
    """Which parameters make a layer.

    Args:
        report: The report.

    Returns:
        One row per layer; None where each layer is one parameter of its own name.
    """
    if all(list(names) == [group] for group, names in report.groups.items()):
        return None
    columns = (_LAYER, Column("tensors", numeric=True), Column("parameters", wide=True))
    rows = [_member_row(group, names) for group, names in report.groups.items()]
    return Table(f"Which parameters make a layer: {len(rows)} layers", columns, rows)


def _member_row(group: str, names: Sequence[str]) -> list[Cell]:
    return [words(group), numeral(float(len(names)), str(len(names))), words(", ".join(names))]
