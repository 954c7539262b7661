"""Bias of the plug-in GSNR at n samples, and the corrected estimate beside it.

Claim (Liu et al. 2020, and the toolkit's theory page): the plug-in estimate ``|mean|^2 / tr S`` is too large by 1/n,
more than GSNR itself where the signal is weak; the corrected estimate is not. Command: ``python -m
analyses.figures.gsnr_bias`` (``--replot``, ``--smoke``). Hardware: 1 CPU core, 3 minutes. Obtained: at n = 16 in a
model plug-in .067, corrected .004 with a wide interval, at n = 512 .0036 and .0018, of all 2000 images .0019. Table:
``figures/data/gsnr_bias.csv``, a row per case, n and draw. Two cases: Gaussian gradients, whose GSNR is known, and
disjoint draws of images through ``clip-lab``, whose GSNR is taken from all images together.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from analyses.collapse.laboratory import BASE
from analyses.support.families import data_words
from analyses.support.figure import caption_line, save_figure
from analyses.support.options import chosen_config
from analyses.support.runner import run_study
from analyses.support.tables import read_table, store
from gsnr_toolkit import estimate_gsnr
from gsnr_toolkit.data.base import probe_indices
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.models.registry import build_model
from gsnr_toolkit.models.spec import input_spec
from gsnr_toolkit.report.plots.marks import gsnr_axis
from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, dress, in_paper_style, new_figure

SIZES, DRAWS, IMAGES = (16, 32, 64, 128, 256, 512), 12, 2000
GAUSSIAN_DIM, GAUSSIAN_GSNR, GAUSSIAN_DRAWS = 256, 0.01, 40
FAMILY, STRENGTH = "demo-fs", 4.0
CASES = {"gaussian": "(a) Gaussian gradients, GSNR known", "model": "(b) a model, GSNR of all images"}


def gaussian_rows(sizes: tuple[int, ...], draws: int) -> Iterator[dict[str, Any]]:
    """Estimate GSNR of gradients that are Gaussian vectors of known mean and unit covariance.

    Args:
        sizes: Numbers of samples.
        draws: Independent draws of each.

    Yields:
        One row per size and draw.
    """
    generator = torch.Generator().manual_seed(0)
    mean = (GAUSSIAN_GSNR * torch.ones(GAUSSIAN_DIM)).sqrt()  # |mean|^2 / d = GSNR
    model = nn.Linear(GAUSSIAN_DIM, 1, bias=False)
    for size in sizes:
        for draw in range(draws):
            inputs = mean + torch.randn(size, GAUSSIAN_DIM, generator=generator)
            yield {"case": "gaussian", "draw": draw, "truth": GAUSSIAN_GSNR, **_estimate(model, inputs, _dot)}


def _dot(model: nn.Module, batch: Any) -> Tensor:
    """Return a loss whose gradient is the input."""
    return model(batch[0])[:, 0]


def _estimate(model: nn.Module, inputs: Tensor, loss: Any = None, labels: Tensor | None = None) -> dict[str, Any]:
    known = torch.arange(len(inputs)) % 2 if labels is None else labels
    batches = [(inputs[i : i + 64], known[i : i + 64]) for i in range(0, len(inputs), 64)]
    total = estimate_gsnr(model, batches, loss_fn=loss, detail="group", progress=False).total
    return {"n": len(inputs), "plugin": float(total["gsnr_plugin"]), "corrected": float(total["gsnr"]),
            "low": float(total["gsnr_low"]), "high": float(total["gsnr_high"])}  # fmt: skip


def model_rows(chosen: argparse.Namespace, sizes: tuple[int, ...], draws: int, images: int) -> Iterator[dict[str, Any]]:
    """Estimate GSNR of a model on disjoint draws of images of different people, and on all of them.

    Args:
        chosen: Options of the script.
        sizes: Numbers of samples.
        draws: Draws of each, as far as images suffice.
        images: Images in all.

    Yields:
        One row per size and draw; the last row has all images.
    """
    config = chosen_config(BASE, chosen)
    model = build_model(config.model, seed=0).eval()
    spec = input_spec(model)
    name = FAMILY if chosen.data_root is None else FAMILY.removeprefix("demo-")
    extra: dict[str, Any] = {"strength": STRENGTH} if chosen.data_root is None else {"root": chosen.data_root}
    dataset = open_dataset(name, split="train", image_size=spec.image_size, mean=spec.mean, std=spec.std, **extra)
    balanced = probe_indices(dataset.records, min(images, dataset.records["source"].nunique()))
    # Shuffled: draws balanced by class would hide the noise between the classes, and show less than 1/n.
    rows = [balanced[i] for i in torch.randperm(len(balanced), generator=torch.Generator().manual_seed(0))]
    pixels = torch.stack([dataset[i][0] for i in rows])
    labels = torch.as_tensor(dataset.labels[rows])
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, pixels, labels = model.to(device), pixels.to(device), labels.to(device)
    truth = _estimate(model, pixels, labels=labels)
    for size in sizes:
        for draw in range(min(draws, len(rows) // size)):
            part = slice(draw * size, (draw + 1) * size)
            found = _estimate(model, pixels[part], labels=labels[part])
            yield {"case": "model", "draw": draw, "truth": truth["corrected"], "data": name, **found}
    yield {"case": "model", "draw": 0, "truth": truth["corrected"], "data": name, **truth}


def compute(chosen: argparse.Namespace) -> None:
    """Estimate everything, and write the table."""
    sizes, draws, images = ((16, 32), 2, 64) if chosen.smoke else (SIZES, DRAWS, IMAGES)
    gaussian = gaussian_rows(sizes, 3 if chosen.smoke else GAUSSIAN_DRAWS)
    table = pd.DataFrame([*gaussian, *model_rows(chosen, sizes, draws, images)])
    settings = {"family": FAMILY, "strength": STRENGTH, "dimension": GAUSSIAN_DIM, "model": chosen.model or BASE.model}
    store(chosen.out, "gsnr_bias", {"": table}, **settings)


def plot(out: Path) -> None:
    """Draw the figure from the table stored in a folder."""
    table = read_table(out, "gsnr_bias")
    own = table[table["case"] == "model"]
    draws = {case: int(table[table["case"] == case].groupby("n")["draw"].nunique().max()) for case in CASES}
    caption = caption_line(
        f"(a) simulated, (b) {data_words([str(own['data'].iloc[0])])}",
        f"Dots: mean over draws, bars: two standard errors; at most {draws['gaussian']} draws of n in (a)",
        f"{draws['model']} disjoint ones in (b)",
        f"where the line is the corrected estimate of all n = {int(own['n'].max())} images with its 95 % interval",
    )
    save_figure(draw(table), out, "gsnr_bias", caption)


@in_paper_style
def draw(table: pd.DataFrame) -> Figure:
    """Draw both estimates against n, one panel per case; ``table`` has a row per case, n and draw."""
    figure = new_figure(TEXT_WIDTH, 2.8)
    for ax, (case, title) in zip(figure.subplots(1, 2), CASES.items(), strict=True):
        _panel(ax, table[table["case"] == case])
        dress(ax, title=title, note="")
    figure.axes[0].set_ylabel("GSNR of the whole gradient")
    figure.axes[0].legend(loc="upper right")
    return figure


def _panel(ax: Axes, rows: pd.DataFrame) -> None:
    truth = float(rows["truth"].iloc[0])
    whole = rows[rows["n"] == rows["n"].max()].iloc[0]
    is_model = rows["case"].iloc[0] == "model"
    drawn = rows[rows["n"] < rows["n"].max()] if is_model else rows
    means = drawn.groupby("n")[["plugin", "corrected"]].agg(["mean", "sem"])
    n = means.index.to_numpy(dtype=float)
    ends = [means[name]["mean"] + side * 2 * means[name]["sem"] for name in ("plugin", "corrected") for side in (-1, 1)]
    if is_model:
        ax.axhspan(whole["low"], whole["high"], color=MUTED, alpha=0.15, linewidth=0)
    ax.axhline(truth, color=MUTED, linewidth=0.9, label="true GSNR")
    ax.plot(n, truth + 1 / n, color=OKABE_ITO["orange"], linestyle=(0, (4, 2)), label="true GSNR + 1/n")
    names = {"plugin": "plug-in", "corrected": "corrected (the toolkit's)"}
    long = drawn.melt("n", list(names), "estimate", "gsnr").replace({"estimate": names})
    sns.pointplot(
        long, x="n", y="gsnr", hue="estimate", palette=[OKABE_ITO["vermillion"], OKABE_ITO["blue"]], markers=["s", "o"],
        markersize=3.6, linestyle="none", errorbar=("se", 2), err_kws={"linewidth": 0.8}, native_scale=True, zorder=4,
        ax=ax,
    )  # fmt: skip
    # The scale comes last: on a log axis seaborn would average logarithms.
    gsnr_axis(ax, np.concatenate([[truth], *ends]), min(truth, 1 / n.max()) if truth > 0 else 1 / n.max())
    ax.legend().remove()  # the first panel gets one for both
    ax.set_xscale("log")
    ax.set_xticks(n, [f"{value:g}" for value in n])
    ax.minorticks_off()
    ax.set(xlabel="samples n", ylabel="")


def main(arguments: list[str] | None = None) -> None:
    """Run the script with command-line arguments; None reads those of the process."""
    run_study(compute, plot, __doc__, arguments)


if __name__ == "__main__":
    main()
