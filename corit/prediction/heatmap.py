"""A picture of what CoRIT saw in an image: its contrast with the counterpart, its regions, and what each adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass, label

from corit.model.contributions import contributions
from corit.model.detector import CoRIT
from corit.model.trained import Trained
from gsnr_toolkit.data.transforms import image_to_tensor
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.report.plots.style import MUTED, in_paper_style, new_figure
from gsnr_toolkit.support.atomic import make_folder

__all__ = ["Picture", "draw_heatmap", "look"]

_EVIDENCE = "RdBu_r"  # red: evidence for fake, blue: for real
_DPI = 200


@dataclass(frozen=True)
class Picture:
    """The content of a heat map, as arrays.

    Attributes:
        pixels: The square that the detector read, (S, S, 3), in [0, 1].
        contrast: Norm of the CGP at each pixel, (S, S).
        regions: Region of each pixel, (S, S), -1 for outliers.
        anchors: Row and column of each region's anchor in pixels, (K, 2), NaN for a missing region.
        parts: Contributions of the whole image (class tokens) and each region to the logit, (1 + K,), summed over
            layers.
        relative: Whether ``parts`` are relative to their means over the validation images.
        probability: Of being fake.
        layer: The layer whose tokens the contrast is computed from.
    """

    pixels: NDArray[np.float32]
    contrast: NDArray[np.float32]
    regions: NDArray[np.int64]
    anchors: NDArray[np.float64]
    parts: NDArray[np.float64]
    relative: bool
    probability: float
    layer: int


@torch.no_grad()
def look(trained: Trained, image: NDArray[np.uint8], device: torch.device | str = "cpu") -> Picture:
    """Compute what CoRIT with regions sees in an RGB image, uint8 (H, W, 3), as the arrays to draw."""
    detector = trained.model
    if not (isinstance(detector, CoRIT) and trained.has_regions):
        raise ProbeError(
            f"expected CoRIT with regions for a heat map, got {trained.training.get('method', 'another detector')!r} "
            "without; leave the heat maps out, or train with --method corit --set num_regions=4"
        )
    spec = trained.spec
    batch = image_to_tensor(image, spec.image_size, spec.mean, spec.std)[None].to(device)
    seen = detector.explain(batch)
    added = contributions(detector, detector.features(batch))[0].double().cpu().numpy()
    reference = trained.training.get("reference")
    if reference is not None:
        added = added - np.asarray(reference)
    rows, columns = seen.cgp.shape[1:]
    cell = np.array([spec.image_size / rows, spec.image_size / columns])
    places = seen.anchors[0].double().cpu().numpy()
    anchors = np.where(places < 0, np.nan, (places + 0.5) * cell - 0.5)
    square = batch[0].cpu() * torch.tensor(spec.std).view(3, 1, 1) + torch.tensor(spec.mean).view(3, 1, 1)
    return Picture(
        pixels=square.permute(1, 2, 0).clamp(0, 1).numpy(),
        contrast=seen.cgp_map[0].float().cpu().numpy(),
        regions=seen.assignment_map[0].cpu().numpy(),
        anchors=anchors,
        parts=added.sum(0),
        relative=reference is not None,
        probability=float(torch.sigmoid(seen.logits[0])),
        layer=seen.layer,
    )


def draw_heatmap(
    trained: Trained,
    image: NDArray[np.uint8],
    path: str | Path,
    *,
    title: str = "",
    frame: int | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Draw what CoRIT with regions sees in an RGB image, uint8 (H, W, 3), and write it as PNG; return the path."""
    picture = look(trained, image, device)
    name = title if frame is None else f"{title}, frame {frame}"
    figure = draw_picture(picture, name, "demo detector" if trained.is_demo else trained.name)
    place = Path(path)
    make_folder(place.parent)
    figure.savefig(place, dpi=_DPI)
    return place


@in_paper_style
def draw_picture(picture: Picture, title: str, detector: str) -> Figure:
    """Draw four panels: the image, its contrast, its regions by contribution, and the contributions as bars."""
    figure = new_figure(7.4, 2.55)
    grid = figure.add_gridspec(1, 4, width_ratios=(1, 1, 1, 0.95))
    axes = [figure.add_subplot(grid[0, i]) for i in range(4)]
    answer = "fake" if picture.probability >= 0.5 else "real"
    figure.suptitle(
        f"{title}    probability of fake {picture.probability:.2f}: {answer}    ({detector})", x=0.01, ha="left", size=9
    )
    limit = 1.3 * float(np.abs(picture.parts).max()) or 1.0
    norm = TwoSlopeNorm(0.0, -limit, limit)
    _image(axes[0], picture)
    _contrast(axes[1], picture)
    _regions(axes[2], picture, norm)
    _bars(axes[3], picture, norm)
    return figure


def _bare(ax: Axes, title: str, below: str) -> None:
    ax.set_title(title)
    ax.set_xlabel(below, color=MUTED, loc="left")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _image(ax: Axes, picture: Picture) -> None:
    ax.imshow(picture.pixels, interpolation="lanczos")
    _bare(ax, "input", f"{len(picture.pixels)} x {len(picture.pixels)} pixels")


def _grey(picture: Picture) -> NDArray[np.float32]:
    """Return a grey, low-contrast version of the image, as a background for colours."""
    grey = picture.pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return 0.35 + 0.5 * grey


def _contrast(ax: Axes, picture: Picture) -> None:
    ax.imshow(_grey(picture), cmap="gray", vmin=0, vmax=1, interpolation="lanczos")
    top = float(picture.contrast.max()) or 1.0
    share = picture.contrast / top
    ax.imshow(share, cmap="inferno", norm=Normalize(0, 1), alpha=0.15 + 0.75 * share, interpolation="bicubic")
    _bare(ax, "contrast with its self-blend", f"distance of tokens, layer {picture.layer};\nbright: largest")


def _regions(ax: Axes, picture: Picture, norm: TwoSlopeNorm) -> None:
    ax.imshow(_grey(picture), cmap="gray", vmin=0, vmax=1, interpolation="lanczos")
    colours = matplotlib.colormaps[_EVIDENCE]
    for number, (row, column) in enumerate(picture.anchors):
        inside = picture.regions == number
        if not inside.any():
            continue
        colour = colours(norm(picture.parts[1 + number]))
        layer = np.zeros((*inside.shape, 4))
        layer[inside] = (*colour[:3], 0.6)
        ax.imshow(layer, interpolation="nearest")
        # padded, so that outlines close at the image's edge
        edge = np.pad(inside.astype(float), 1)
        at = np.arange(-1, len(inside) + 1)
        ax.contour(at, at, edge, levels=[0.5], colors="black", linewidths=0.8)
        _number(ax, inside, str(number + 1), (float(row), float(column)))
    ax.set_xlim(-0.5, len(picture.pixels) - 0.5)
    ax.set_ylim(len(picture.pixels) - 0.5, -0.5)
    _bare(ax, "regions and what they add", "red: evidence for fake, blue: for real;\nplain grey: in no region")


def _number(ax: Axes, inside: NDArray[np.bool_], number: str, anchor: tuple[float, float]) -> None:
    """Write a region's number on its anchor, and a small one on its other pieces."""
    badge = {"boxstyle": "circle,pad=0.18", "facecolor": "white", "edgecolor": "black", "linewidth": 0.6}
    ax.text(anchor[1], anchor[0], number, ha="center", va="center", size=6.5, bbox=badge)
    pieces, count = label(inside)
    own = pieces[round(anchor[0]), round(anchor[1])]
    for piece in range(1, count + 1):
        if piece == own:
            continue
        places = np.argwhere(pieces == piece)
        centre = np.array(center_of_mass(pieces == piece))
        # the centre of mass of a bent piece may lie outside it; take the piece's nearest pixel
        row, column = places[np.square(places - centre).sum(1).argmin()]
        ax.text(column, row, number, ha="center", va="center", size=5.5)


def _bars(ax: Axes, picture: Picture, norm: TwoSlopeNorm) -> None:
    colours = matplotlib.colormaps[_EVIDENCE]
    exists = [True, *np.isfinite(picture.anchors[:, 0])]
    names = ["whole image", *(f"region {number + 1}" for number in range(len(picture.anchors)))]
    shown: Sequence[int] = [i for i, here in enumerate(exists) if here]
    places = np.arange(len(shown))
    ax.barh(
        places,
        picture.parts[shown],
        color=[colours(norm(picture.parts[i])) for i in shown],
        edgecolor="black",
        linewidth=0.5,
        height=0.65,
    )
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_yticks(places, [names[i] for i in shown])
    ax.invert_yaxis()
    limit = 1.15 * (float(np.abs(picture.parts[shown]).max()) or 1.0)
    ax.set_xlim(-limit, limit)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_title("the same as bars")
    against = "part of the logit, minus its mean\nover validation images" if picture.relative else "part of the logit"
    ax.set_xlabel(against, color=MUTED)
    missing = len(exists) - len(shown)
    if missing:
        ax.text(
            1, -0.02, f"{missing} regions not found", transform=ax.transAxes, ha="right", va="top", size=6, color=MUTED
        )
