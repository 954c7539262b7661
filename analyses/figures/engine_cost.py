"""What the engines cost: time and memory of per-sample moments, redrawn from the stored benchmarks.

Claim: per-sample moments come at a small multiple of a plain forward and backward pass. Command:
``python -m analyses.figures.engine_cost`` (``--replot`` does the same; ``python -m benchmarks.engines`` measures).
Hardware: named in the stored files. Obtained: ``docs/engines.md``. Tables: ``benchmarks/engines*.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analyses.support.figure import save_figure
from analyses.support.runner import run_study
from analyses.support.tables import store
from gsnr_toolkit.report.plots.marks import tidy_log_axis
from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FAMILIES = {"plain": "black", "ours": "blue", "peer": "vermillion"}
WORDS = {"plain": "plain pass", "ours": "the toolkit", "peer": "other libraries"}
_KEPT = ["model", "method", "family", "gives", "batch", "device", "threads", "time_ratio", "time_low", "time_high",
         "memory_ratio", "peak_gib", "covers", "failure"]  # fmt: skip


def compute(chosen: argparse.Namespace) -> None:
    """Gather the stored benchmarks into a table."""
    files = sorted(BENCHMARKS.glob("engines*.json"))
    stored = [json.loads(path.read_text(encoding="utf8")) for path in files]
    rows = pd.concat([pd.DataFrame(item["rows"]).assign(cpu=item["provenance"]["cpu"]) for item in stored])
    table = rows.reindex(columns=[*_KEPT, "cpu"])
    store(chosen.out, "engine_cost", {"": table}, files=[path.name for path in files])


def plot(out: Path) -> None:
    """Draw the figure from the table stored in a folder."""
    table = pd.read_csv(out / "engine_cost.csv")
    batches = ", ".join(f"{name}: {size}" for name, size in table.groupby("model", sort=False)["batch"].first().items())
    caption = (
        f"Data: random inputs of each model's size (no data set). Samples in a batch: {batches}. Median time over that "
        f"of a plain forward and backward pass, bars: lowest to highest. {table['cpu'].iloc[0]}."
    )
    save_figure(draw(table), out, "engine_cost", caption)


@in_paper_style
def draw(table: pd.DataFrame) -> Figure:
    """Draw time over that of a plain pass, a panel per model; a method without a time keeps its line."""
    models = list(table["model"].drop_duplicates())
    most = int(table.groupby("model").size().max())
    figure = new_figure(TEXT_WIDTH, (0.145 * most + 0.75) * -(-len(models) // 2) + 0.6)
    axes = figure.subplots(-(-len(models) // 2), 2, squeeze=False).ravel()
    for ax, model in zip(axes, models, strict=False):
        rows = table[table["model"] == model].reset_index(drop=True)
        for family, color in FAMILIES.items():
            own = rows[(rows["family"] == family) & rows["time_ratio"].notna()]
            reach = [own["time_ratio"] - own["time_low"], own["time_high"] - own["time_ratio"]]
            ax.errorbar(
                own["time_ratio"], own.index, xerr=[side.clip(lower=0) for side in reach], fmt="o", markersize=3.4,
                color=OKABE_ITO[color], elinewidth=0.8, label=WORDS[family],
            )  # fmt: skip
        for place in rows.index[rows["time_ratio"].isna()]:
            style = {"ha": "right", "va": "center", "size": 5.5, "color": MUTED}
            ax.text(0.98, place, "no number", transform=ax.get_yaxis_transform(), **style)
        ax.set_xscale("log")
        ax.set_yticks(rows.index, rows["method"], fontsize=5.5)
        ax.invert_yaxis()
        ax.axvline(1, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)))
        ax.grid(axis="y", color=MUTED, alpha=0.15, linewidth=0.5)
        dress(ax, title=model, note="")
        ax.tick_params(axis="y", labelsize=5.5)
        tidy_log_axis(ax, "x")
        ax.set_xlabel("time / plain pass")
    for ax in axes[len(models) :]:
        ax.set_axis_off()
    axes[0].legend(loc="best", fontsize=6)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Run the script with command-line arguments; None reads those of the process."""
    run_study(compute, plot, __doc__, arguments)


if __name__ == "__main__":
    main()
