"""The benchmark's rows as a Markdown table and as a figure.

Command: ``python -m benchmarks.comparison.table [engines.json]``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.comparison.settings import RESULTS
from benchmarks.instruments import line
from gsnr_toolkit.report.plots.marks import log_limits
from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure, save

Row = dict[str, Any]

TOLERANCE = 1e-3
"""Difference from the loop in float64 above which a row says so: far more than float32 rounding in one product."""

COLUMNS = (
    "model", "method", "product", "batch", "covers", "difference", "time / plain", "lowest to highest", "peak GiB",
    "memory / plain", "note",
)  # fmt: skip

MARKS = {
    ("plain", "mean"): ("black", "D", "plain forward + backward"),
    ("ours", "moments"): ("blue", "o", "ours, moments"),
    ("ours", "spreads"): ("blue", "^", "ours, by group"),
    ("ours", "norms"): ("blue", "v", "ours, norms"),
    ("peer", "moments"): ("vermillion", "o", "other library, moments"),
    ("peer", "norms"): ("vermillion", "^", "other library, norms only"),
}


def markdown(rows: Sequence[Row]) -> str:
    """Write the rows as a table.

    Args:
        rows: Rows of the benchmark.

    Returns:
        Markdown with one line per row, also for rows without numbers.
    """
    lines = [line(*COLUMNS), line(*["---"] * len(COLUMNS))]
    for row in rows:
        spread = [_number(row.get(key), ".2f") for key in ("time_low", "time_high")]
        cells = [
            row["model"],
            row["method"],
            row.get("product", ""),
            row["batch"],
            "" if row.get("covers") is None else f"{_percent(row['covers'])} %",
            _number(row.get("difference"), ".0e"),
            _number(row.get("time_ratio"), ".2f"),
            " to ".join(spread) if all(spread) else "",
            _number(row.get("peak_gib"), ".2f"),
            _number(row.get("memory_ratio"), ".2f"),
            note(row),
        ]
        lines.append(line(*cells))
    return "\n".join(lines)


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else str(value or "")


def note(row: Row, limit: int = 140) -> str:
    """Describe in a few words what is wrong with a row.

    Args:
        row: A row.
        limit: Maximum number of characters.

    Returns:
        Its failure, its error or its coverage; empty for a complete and correct result.

    >>> note({"covers": 0.659, "missed": 5, "tensors": 12, "difference": 1e-7})
    'covers 66 %, misses 5 of 12 tensors'
    >>> note({"covers": 1.0, "difference": "nan"})
    'differs by nan'
    """
    if row.get("failure"):
        text = row["failure"]
        return text if len(text) <= limit else text[: limit - 3] + "..."
    parts = []
    covers, difference = row.get("covers"), row.get("difference")
    # NaN and infinity are stored as text.
    if covers != 0 and (isinstance(difference, str) or (difference is not None and difference > TOLERANCE)):
        parts.append(f"differs by {_number(difference, '.0e')}")
    if covers is not None and covers < 1:
        parts.append(f"covers {_percent(covers)} %, misses {row['missed']} of {row['tensors']} tensors")
    return ", ".join(parts)


def _percent(share: float) -> str:
    # 99.6 % must not be rounded to 100 %.
    if share == 1:
        return "100"
    return f"{min(100 * share, 99.9):.1f}" if share > 0.99 else f"{100 * share:.0f}"


@in_paper_style
def figure_of(rows: Sequence[Row]) -> Figure:
    """Draw time and memory relative to a plain pass: two panels per model, a line per method, fastest first.

    Args:
        rows: Rows of the benchmark.

    Returns:
        A figure 7 inches wide. Hollow marks are results that differ from the loop or miss parameters; a method
        without a number keeps its line, with the reason.
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    grouped = {model: sorted((r for r in rows if r["model"] == model), key=_order) for model in models}
    heights = [len(group) + 3.5 for group in grouped.values()]
    figure = new_figure(TEXT_WIDTH, 0.14 * sum(heights) + 0.5)
    panels = figure.subplots(len(models), 2, squeeze=False, height_ratios=heights, width_ratios=(1.35, 1))
    for (model, group), (time, memory) in zip(grouped.items(), panels, strict=True):
        _panel(time, group, "time_ratio", interval=("time_low", "time_high"))
        _log_axis(time, group, ("time_ratio", "time_low", "time_high"))
        _panel(memory, group, "memory_ratio")
        memory.set_xlim(0, 1.1 * max(row.get("memory_ratio") or 1.0 for row in group))
        dress(time, title=f"{model}, batch {group[0]['batch']}", note="")
        dress(memory, title="", note="")
        for y, row in enumerate(group):
            if row.get("time_ratio") is None or note(row):
                _remark(time, y, row)
        memory.tick_params(axis="y", labelleft=False)
    for ax, label in zip(panels[-1], ("time / plain forward + backward", "peak memory / plain"), strict=True):
        ax.set_xlabel(label)
    figure.legend(handles=_key(rows), loc="outside lower left", ncols=3)
    return figure


def draw(rows: Sequence[Row], stem: Path) -> list[Path]:
    """Write the figure as a bitmap.

    Args:
        rows: Rows of the benchmark.
        stem: Path without suffix.

    Returns:
        The written path.
    """
    return save(figure_of(rows), stem, formats=("png",), dpi=200)


def _order(row: Row) -> tuple[bool, bool, float]:
    ratio = row.get("time_ratio")
    return row["method"] != "plain", ratio is None, ratio or 0.0


def _kind(row: Row) -> tuple[str, str]:
    # Moments come from per-sample gradients, so both have the same product.
    gives = row.get("gives", "")
    return row.get("family", ""), "moments" if gives == "gradients" else gives


def _style(row: Row) -> dict[str, Any]:
    color, marker, _ = MARKS.get(_kind(row), ("purple", "s", ""))
    hue = OKABE_ITO[color]
    return {"color": hue, "marker": marker, "markerfacecolor": "white" if note(row) else hue}


def _panel(ax: Axes, group: Sequence[Row], key: str, interval: tuple[str, str] | None = None) -> None:
    ax.axvline(1, color=MUTED, linewidth=0.5, zorder=0)
    for y, row in enumerate(group):
        ax.axhline(y, color=MUTED, linewidth=0.3, alpha=0.3, zorder=0)
        if not row.get(key):
            continue
        style = _style(row)
        if interval:
            ax.hlines(y, row[interval[0]], row[interval[1]], color=style["color"], linewidth=0.9)
        ax.plot(row[key], y, linestyle="none", clip_on=False, **style)
    ax.set_yticks(range(len(group)), [row["method"].partition(":")[2] or row["method"] for row in group])
    ax.set_ylim(len(group) - 0.4, -0.6)


def _log_axis(ax: Axes, group: Sequence[Row], keys: Sequence[str]) -> None:
    ax.set_xscale("log")
    ax.set_xlim(log_limits([1.0, *(row[key] for row in group for key in keys if row.get(key))]))
    ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _remark(ax: Axes, y: int, row: Row) -> None:
    style: dict[str, Any] = {"va": "center", "fontsize": 5.5, "color": MUTED, "in_layout": False}
    if row.get("time_ratio") is None:
        ax.text(0.01, y, note(row, 58) or "no time", transform=ax.get_yaxis_transform(), **style)
        return
    # On the side of the mark that has room.
    low, high = ax.get_xlim()
    right = row["time_ratio"] ** 2 < low * high
    at, shift, side = (row["time_high"], 5, "left") if right else (row["time_low"], -5, "right")
    text = note(row).partition(", misses")[0]
    ax.annotate(text, xy=(at, y), xytext=(shift, 0), textcoords="offset points", ha=side, **style)


def _key(rows: Sequence[Row]) -> list[Line2D]:
    present = {_kind(row) for row in rows}
    handles = [
        Line2D([], [], linestyle="none", color=OKABE_ITO[color], marker=marker, label=label)
        for kind, (color, marker, label) in MARKS.items()
        if kind in present
    ]
    if any(note(row) and row.get("time_ratio") is not None for row in rows):
        label = "hollow: differs from the loop, or misses parameters"
        handles.append(Line2D([], [], linestyle="none", color=MUTED, marker="o", markerfacecolor="white", label=label))
    return handles


def main(arguments: list[str]) -> None:
    """Print the table of a file of results and redraw its figure.

    Args:
        arguments: The file; the benchmark's own when left out.
    """
    path = Path(arguments[0]) if arguments else RESULTS
    rows = json.loads(path.read_text(encoding="utf8"))["rows"]
    print(markdown(rows))
    draw(rows, path.with_suffix(""))


if __name__ == "__main__":
    main(sys.argv[1:])
