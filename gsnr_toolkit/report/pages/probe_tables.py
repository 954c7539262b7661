"""Tables of a probe's page: layers, steps, and the parameters of each layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gsnr_toolkit.report.numbers import beyond, cor_parts
from gsnr_toolkit.report.outcome import collapse_outcome
from gsnr_toolkit.report.pages.answer import BAD, GOOD, UNSURE
from gsnr_toolkit.report.pages.cells import Cell, Column, Table, estimate, numeral, words

if TYPE_CHECKING:
    from gsnr_toolkit.report.like import ReportLike

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


def layer_table(report: ReportLike) -> Table:
    """Return the layers at the bottleneck step in depth order, the weakest framed; the whole model is the foot."""
    step, weakest = report.bottleneck.step, report.bottleneck.group
    rows = report.layers[report.layers["step"] == step].to_dict("records")
    caption = f"{len(rows)} layers at step {step}, input to output"
    if weakest is not None:
        caption += "; framed: the layer that loses its direction first"
    return Table(
        caption,
        (_LAYER, *(_COR if report.has_cor else ()), *_GSNR, *_STATE),
        [[words(row["group"]), *_numbers(report, row)] for row in rows],
        foot=[[words("whole model"), *_numbers(report, report.total.to_dict())]],
        marked=frozenset(index for index, row in enumerate(rows) if row["group"] == weakest),
    )


def every_step_table(report: ReportLike) -> Table | None:
    """Return all layers at all steps, with the causes of each COR; None if `layer_table` already shows it all."""
    if not report.has_cor and report.totals["step"].nunique() < 2:
        return None
    causes = _CAUSES if report.has_cor else ()
    columns = (_LAYER, _STEP, *(_COR if report.has_cor else ()), *_GSNR, *causes, *_STATE)
    rows = [_full_row(report, row) for row in report.layers.to_dict("records")]
    return Table(f"Every layer at every measured step, and why: {len(rows)} rows", columns, rows)


def _full_row(report: ReportLike, row: dict[str, Any]) -> list[Cell]:
    *numbers, status, message = _numbers(report, row)
    names = ("signal_fraction", "misspecification", "grad_norm") if report.has_cor else ()
    causes = [numeral(float(row[name])) for name in names]
    return [words(row["group"]), _step(row), *numbers, *causes, status, message]


def _step(row: dict[str, Any]) -> Cell:
    return numeral(row["step"], str(int(row["step"])))


def _numbers(report: ReportLike, row: dict[str, Any]) -> list[Cell]:
    cells = (
        [_zone(row, float(report.settings["rho"])), _cor(report, row), _aligned(report, row)] if report.has_cor else []
    )
    counts = [numeral(float(row[name]), f"{int(row[name]):,}") for name in ("num_samples", "num_params")]
    return [*cells, estimate(row, "gsnr"), *counts, words(row["status"]), words(row["message"])]


def _zone(row: dict[str, Any], rho: float) -> Cell:
    # The digits in front sort the cells from bad to good.
    outcome = collapse_outcome(row, rho)
    if outcome == "inside":
        return Cell("yes", order="0 yes", tone=BAD)
    if outcome == "outside":
        return Cell("no", order="2 no", tone=GOOD)
    return Cell("undecided", order="1 undecided", tone=UNSURE)


def _cor(report: ReportLike, row: dict[str, Any]) -> Cell:
    order = {"ok": row["cor"], "above_max_radius": math.inf}.get(row["status"])
    return Cell(*cor_parts(row, beyond(report.settings)), order=order)


def _aligned(report: ReportLike, row: dict[str, Any]) -> Cell:
    value = float(row["alignment_radius"])
    return Cell(beyond(report.settings), order=math.inf) if math.isinf(value) else numeral(value)


def step_table(report: ReportLike) -> Table:
    """Return the whole model at each measured step, the bottleneck step framed."""
    records = report.totals.to_dict("records")
    losses, loss_cells = _losses(report)
    unknown = [Cell("–")] * len(losses)
    columns = (_STEP, *losses, *(_COR if report.has_cor else ()), *_GSNR, *_STATE)
    cells = [[_step(row), *loss_cells.get(row["step"], unknown), *_numbers(report, row)] for row in records]
    several = len(records) > 1 and not math.isnan(report.cor)
    marked = frozenset(i for i, row in enumerate(records) if several and row["step"] == report.bottleneck.step)
    caption = f"The whole model at {len(records)} measured step{'s' if len(records) > 1 else ''}"
    return Table(caption + ("; framed: the step of the smallest COR" if marked else ""), columns, cells, marked=marked)


def _losses(report: ReportLike) -> tuple[list[Column], dict[int, list[Cell]]]:
    """Return loss and batch gradient norm by step, as far as they were measured."""
    rows = report.trajectory.to_dict("records")
    if not rows:
        return [], {}
    columns, cells = [Column("loss, nats", numeric=True)], {row["step"]: [estimate(row, "loss")] for row in rows}
    if report.trajectory["batch_grad_norm"].notna().any():
        columns.append(Column("mean batch gradient norm", numeric=True))
        for row in rows:
            cells[row["step"]].append(numeral(float(row["batch_grad_norm"])))
    return columns, cells


def member_table(report: ReportLike) -> Table | None:
    """Return the parameters of each layer; None if every layer is one parameter of the same name."""
    if all(list(names) == [group] for group, names in report.groups.items()):
        return None
    columns = (_LAYER, Column("tensors", numeric=True), Column("parameters", wide=True))
    rows = [
        [words(group), numeral(float(len(names)), str(len(names))), words(", ".join(names))]
        for group, names in report.groups.items()
    ]
    return Table(f"Which parameters make a layer: {len(rows)} layers", columns, rows)
