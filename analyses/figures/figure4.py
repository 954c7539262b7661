"""Figure 4: the pipeline of CoRIT, drawn from one image that passes through the real code.

Claim (the paper's Figure 4): an image and its self-blended counterpart go through a frozen encoder; the discrepancy of
their tokens, the Contrastive Gradient Proxy (CGP), gives anchors, refined regions and region tokens, which a linear
head reads at two layers. Command: ``python -m analyses.figures.figure4`` (``--replot``, ``--smoke``). Hardware: 1 CPU
core, 10 seconds. Obtained: the shipped ``corit-demo``, whose anchors are from the CGPs of many training images, on a
forged face of ``demo-nt``; every number in it is the detector's. Tables: ``figures/data/figure4.csv`` (contributions
to the logit, norms of region tokens by block, anchors) and ``figure4_maps.csv`` (pixels and maps).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from numpy.typing import NDArray

from analyses.support.figure import caption_line, save_figure
from analyses.support.runner import run_study
from analyses.support.tables import read_table, store
from corit.model.contributions import contributions
from corit.model.detector import CoRIT
from corit.model.trained import load_trained
from gsnr_toolkit.data.demo.pairs import demo_pair
from gsnr_toolkit.data.transforms import image_to_tensor
from gsnr_toolkit.report.plots.style import MUTED, OKABE_ITO, TEXT_WIDTH, in_paper_style, new_figure

FAMILY, IDENTITY = "nt", 11
ANCHORS = {
    "cgp": "anchors: largest CGP",
    "shared": "anchors: CGPs of many\ntraining images",
    "random": "anchors: random",
    "fixed": "anchors: fixed",
}
HUES = ("vermillion", "sky", "green", "purple", "orange", "yellow", "blue", "black")


@torch.no_grad()
def compute(chosen: argparse.Namespace) -> None:
    """Pass the image through the detector, and write the result of every stage.

    Args:
        chosen: Options of the script; with ``data_root`` the image is the first forged face of that data set.
    """
    trained = load_trained()
    detector, spec = trained.model, trained.spec
    assert isinstance(detector, CoRIT)
    image, words = _image(chosen, spec.image_size)
    batch = image_to_tensor(image, spec.image_size, spec.mean, spec.std)[None]
    assert detector.counterpart is not None
    other = detector.counterpart(batch)
    seen = detector.explain(batch, other)
    parts = contributions(detector, detector.features(batch, other))[0]
    norms = torch.linalg.vector_norm(seen.region_tokens[0], dim=-1)
    rows: list[dict[str, Any]] = [
        {"kind": "part", "layer": layer, "region": k, "value": float(parts[i, k])}
        for i, layer in enumerate(detector.read_layers)
        for k in range(parts.shape[1])
    ]
    rows += [
        {"kind": "token", "layer": layer + 1, "region": k + 1, "value": float(norms[layer, k])}
        for layer in range(norms.shape[0])
        for k in range(norms.shape[1])
    ]
    cell = spec.image_size / seen.cgp.shape[1]
    rows += [
        {"kind": axis, "layer": seen.layer, "region": k + 1, "value": (float(place) + 0.5) * cell - 0.5}
        for k, pair in enumerate(seen.anchors[0])
        for axis, place in zip(("row", "column"), pair, strict=True)
        if place >= 0
    ]
    rows.append({"kind": "bias", "layer": 0, "region": 0, "value": float(detector.head.bias)})
    rows.append({"kind": "probability", "layer": 0, "region": 0, "value": float(torch.sigmoid(seen.logits[0]))})
    maps = _maps(batch, other, spec, seen)
    table = pd.DataFrame(rows).assign(caption=words, anchors=detector.config.anchors)
    store(chosen.out, "figure4", {"": table, "_maps": maps}, detector=trained.name)


def _image(chosen: argparse.Namespace, size: int) -> tuple[NDArray[np.uint8], str]:
    """Return a forged face, and the words for its data in the caption."""
    if chosen.data_root is None:
        return demo_pair(FAMILY, IDENTITY, size=size).fake, "embedded data"
    from gsnr_toolkit.data.registry import open_dataset

    dataset = open_dataset(FAMILY, split="test", root=chosen.data_root, image_size=size, mean=(0, 0, 0), std=(1, 1, 1))
    number = int(np.flatnonzero(dataset.labels == 1)[0])
    pixels = dataset[number][0].permute(1, 2, 0).mul(255).round().clamp(0, 255)
    return pixels.byte().numpy(), dataset.caption


def _maps(batch: torch.Tensor, other: torch.Tensor, spec: Any, seen: Any) -> pd.DataFrame:
    """Return a row per pixel: colours of both images, norm of the CGP, region."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    pictures = {"input": batch[0] * std + mean, "other": other[0] * std + mean}
    columns = {
        f"{name}_{colour}": picture[index].clamp(0, 1).mul(255).round().long().flatten().numpy()
        for name, picture in pictures.items()
        for index, colour in enumerate("rgb")
    }
    maps = {"cgp": seen.cgp_map[0].flatten().numpy(), "region": seen.assignment_map[0].flatten().numpy()}
    return pd.DataFrame({**columns, **maps})


def plot(out: Path) -> None:
    """Draw the figure from the tables stored in a folder."""
    table, maps = read_table(out, "figure4"), read_table(out, "figure4_maps")
    caption = caption_line(
        str(table["caption"].iloc[0]),
        "One forged face through the shipped detector corit-demo (CoRIT on clip-demo, frozen)",
        "n = 1 image: an illustration of the code, no evidence",
    )
    save_figure(draw(table, maps), out, "figure4", caption)


@in_paper_style
def draw(table: pd.DataFrame, maps: pd.DataFrame) -> Figure:
    """Draw all stages from left to right, from the stored tables."""
    side = round(len(maps) ** 0.5)
    figure = new_figure(TEXT_WIDTH, 3.1)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.05)
    grid = figure.add_gridspec(2, 5, width_ratios=(1, 1, 1, 1.05, 1.2), wspace=0.12)
    images = [figure.add_subplot(grid[row, 0]) for row in range(2)]
    cgp = figure.add_subplot(grid[:, 1])
    anchors, regions = (figure.add_subplot(grid[row, 2]) for row in range(2))
    tokens, heads = figure.add_subplot(grid[:, 3]), figure.add_subplot(grid[:, 4])
    pixels = {name: _picture(maps, name, side) for name in ("input", "other")}
    _bare(images[0], pixels["input"], "image")
    _bare(images[1], pixels["other"], "self-blend")
    grey = pixels["input"] @ np.array([0.299, 0.587, 0.114]) / 255
    norm = maps["cgp"].to_numpy().reshape(side, side)
    _bare(cgp, norm, f"CGP: distance of\ntokens, layer {_layer(table)}", cmap="inferno")
    _anchors(anchors, grey, table)
    _regions(regions, grey, maps["region"].to_numpy().reshape(side, side))
    _tokens(tokens, table)
    _heads(heads, table)
    for start, end in ((images[0], cgp), (images[1], cgp), (cgp, anchors), (cgp, regions)):
        _arrow(figure, start, end)
    _arrow(figure, anchors, tokens, (-0.36, 0.75))
    _arrow(figure, regions, tokens, (-0.36, 0.25))
    _arrow(figure, tokens, heads, (-0.62, 0.5))
    return figure


def _layer(table: pd.DataFrame) -> int:
    return int(table.loc[table["kind"] == "row", "layer"].iloc[0])


def _picture(maps: pd.DataFrame, name: str, side: int) -> NDArray[np.uint8]:
    values = maps[[f"{name}_{colour}" for colour in "rgb"]].to_numpy(dtype=np.uint8)
    return values.reshape(side, side, 3)


def _bare(ax: Axes, image: NDArray[Any], title: str, cmap: str = "gray") -> None:
    ax.imshow(image, cmap=cmap, interpolation="lanczos")
    ax.set_title(title, loc="center", fontsize=7)
    ax.set_xticks([])
    ax.set_yticks([])
    sns.despine(ax=ax, left=True, bottom=True)


def _color(region: int) -> str:
    return OKABE_ITO[HUES[(region - 1) % len(HUES)]]


def _anchors(ax: Axes, grey: NDArray[Any], table: pd.DataFrame) -> None:
    _bare(ax, grey, ANCHORS[table["anchors"].iloc[0]])
    places = {kind: table[table["kind"] == kind].set_index("region")["value"] for kind in ("row", "column")}
    for region, row in places["row"].items():
        number = int(str(region))
        badge = {"boxstyle": "circle,pad=0.2", "facecolor": _color(number), "edgecolor": "white", "linewidth": 0.6}
        ax.text(places["column"][region], row, str(number), ha="center", va="center", size=6, color="white", bbox=badge)


def _regions(ax: Axes, grey: NDArray[Any], regions: NDArray[Any]) -> None:
    _bare(ax, grey, "RRM: refined regions")
    for index in range(int(regions.max()) + 1):
        layer = np.zeros((*regions.shape, 4))
        layer[regions == index] = to_rgba(_color(index + 1), 0.65)
        ax.imshow(layer, interpolation="nearest")


def _tokens(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the norms of the region tokens after every block."""
    rows = table[table["kind"] == "token"]
    for region, own in rows.groupby("region"):
        number = int(str(region))
        ax.plot(own["value"], own["layer"], color=_color(number), marker="o", markersize=3, label=f"region {number}")
    read = sorted(set(table.loc[table["kind"] == "part", "layer"]))
    for layer in read:
        ax.axhline(layer, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)
    ax.set_yticks(sorted(set(rows["layer"])))
    ax.set_xlim(left=0)
    ax.set_ylabel("after block")
    ax.set_xlabel("norm of region token")
    ax.set_title("RSI: region tokens\n(dashed: HRI reads)", loc="center", fontsize=7)


def _heads(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the contributions of class token and regions of each layer to the logit."""
    parts = table[table["kind"] == "part"]
    names = [f"{'class' if region == 0 else f'region {region}'}, l = {layer}"
             for region, layer in zip(parts["region"], parts["layer"], strict=True)]  # fmt: skip
    places = np.arange(len(parts))
    colors = [OKABE_ITO["black"] if region == 0 else _color(int(region)) for region in parts["region"]]
    ax.barh(places, parts["value"], color=colors, height=0.7, linewidth=0)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_yticks(places, names, fontsize=6)
    ax.invert_yaxis()
    bias = float(table.loc[table["kind"] == "bias", "value"].iloc[0])
    probability = float(table.loc[table["kind"] == "probability", "value"].iloc[0])
    ax.set_xlabel(f"part of the logit\n(bias {bias:+.2f})")
    ax.set_title(f"linear head: P(fake) = {probability:.2f}", loc="center", fontsize=7)


def _arrow(figure: Figure, start: Axes, end: Axes, to: tuple[float, float] = (-0.04, 0.5)) -> None:
    """Draw an arrow from the right side of a panel to a place, in fractions, beside another panel."""
    style: dict[str, Any] = {"arrowstyle": "-|>", "color": MUTED, "linewidth": 0.8, "mutation_scale": 7}
    fractions = "axes fraction", "axes fraction"
    figure.add_artist(ConnectionPatch((1.03, 0.5), to, *fractions, axesA=start, axesB=end, **style))


def main(arguments: list[str] | None = None) -> None:
    """Run the script with command-line arguments; None reads those of the process."""
    run_study(compute, plot, __doc__, arguments)


if __name__ == "__main__":
    main()
