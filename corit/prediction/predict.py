"""Probabilities of a user's own images and videos, by frame and by file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit
from torch import Tensor

from corit.model.trained import Trained
from corit.prediction.media import Frame, find_inputs, read_frames
from gsnr_toolkit.data.transforms import fit_square, image_to_tensor
from gsnr_toolkit.support.atomic import make_folder, write_text
from gsnr_toolkit.support.progress import Advance, stage

if TYPE_CHECKING:
    from corit.prediction.crop import Cropper

__all__ = ["Predictions", "predict_files", "predict_pixels", "save_predictions"]


@dataclass(frozen=True)
class Predictions:
    """Scores of files.

    Attributes:
        files: A row for each file: ``file``, ``probability`` (mean over frames; NaN if no frame was scored),
            ``answer``, ``frames`` (number scored), ``note`` (what was done to it, or why nothing was scored).
        frames: A row for each frame: ``file``, ``frame``, ``logit``, ``probability``, ``width``, ``height``, ``note``.
        heatmaps: Pictures written, by file.
    """

    files: pd.DataFrame
    frames: pd.DataFrame
    heatmaps: dict[str, Path] = field(default_factory=dict)


def predict_pixels(trained: Trained, images: Sequence[NDArray[np.uint8]], device: Any = "cpu") -> NDArray[np.float64]:
    """Compute the logits ``(N,)``, positive for fake, of RGB images of any size, uint8 (H, W, 3) each."""
    with torch.no_grad():
        return trained.model(as_batch(trained, images).to(device)).reshape(-1).double().cpu().numpy()


def as_batch(trained: Trained, images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Resize and normalise RGB images, uint8 (H, W, 3) each, to the detector's input ``(N, 3, S, S)``."""
    spec = trained.spec
    return torch.stack([image_to_tensor(image, spec.image_size, spec.mean, spec.std) for image in images])


def predict_files(
    trained: Trained,
    given: Sequence[str | Path],
    *,
    heatmaps: Path | None = None,
    frames_per_video: int = 16,
    cropper: Cropper | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Predictions:
    """Score image files, folders, patterns and videos.

    Args:
        trained: The detector.
        given: See :func:`corit.prediction.media.find_inputs`.
        heatmaps: Folder of heat maps, created if missing; None draws none. Of a video, the frame with the highest score
            is drawn.
        frames_per_video: Maximum number of frames of a video.
        cropper: Crops faces; the whole image is used when None.
        batch_size: Images per forward pass.
        device: Device of the detector.
        progress: Show a bar (on a terminal).

    Returns:
        The scores.
    """
    paths = find_inputs(given)
    rows: list[dict[str, Any]] = []
    drawer = None if heatmaps is None else _Drawer(trained, heatmaps, paths, device)
    with stage("scoring", len(paths), show=progress) as advance:
        frames = (
            _squared(frame, trained.spec.image_size)
            for path in paths
            for frame in _counted(read_frames(path, frames_per_video=frames_per_video, cropper=cropper), advance)
        )
        for batch in _batches(frames, batch_size):
            pixels = [frame.pixels for frame in batch if frame.pixels is not None]
            logits = iter(predict_pixels(trained, pixels, device).tolist() if pixels else [])
            for frame in batch:
                rows.append(_row(frame, None if frame.pixels is None else next(logits)))
                if drawer is not None:
                    drawer.add(frame, rows[-1]["logit"])
    table = pd.DataFrame(rows)
    return Predictions(_by_file(table), table, {} if drawer is None else drawer.finish())


def _counted(frames: Iterator[Frame], advance: Advance) -> Iterator[Frame]:
    """Yield the frames of a file, then advance the progress bar."""
    yield from frames
    advance(1)


def _squared(frame: Frame, size: int) -> Frame:
    """Resize a frame to what the detector reads, so that large frames do not stay in memory."""
    if frame.pixels is None:
        return frame
    height, width = frame.pixels.shape[:2]
    square = np.array(fit_square(Image.fromarray(frame.pixels), size))
    return replace(frame, pixels=square, width=width, height=height)


def _batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    while batch := list(islice(frames, size)):
        yield batch


def _row(frame: Frame, logit: float | None) -> dict[str, Any]:
    score = np.nan if logit is None else logit
    return {
        "file": str(frame.path),
        "frame": frame.index,
        "logit": score,
        "probability": float(expit(score)),
        "width": frame.width,
        "height": frame.height,
        "note": frame.note,
    }


def _by_file(frames: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for name, part in frames.groupby("file", sort=False):
        known = part["probability"].dropna()
        mean = float(known.mean()) if len(known) else float("nan")
        counts = part.loc[part["note"] != "", "note"].value_counts()
        notes = [f"{count} x {note}" if len(part) > 1 else str(note) for note, count in counts.items()]
        answer = "not scored" if not len(known) else "fake" if mean >= 0.5 else "real"
        row = {"file": name, "probability": mean, "answer": answer, "frames": len(known), "note": "; ".join(notes)}
        rows.append(row)
    return pd.DataFrame(rows)


class _Drawer:
    """Draws each still image, and of each video the frame with the highest score."""

    def __init__(self, trained: Trained, folder: Path, paths: Sequence[Path], device: torch.device | str) -> None:
        self._trained, self._device = trained, device
        self._places = {path: folder / f"{name}.heatmap.png" for path, name in unique_names(paths).items()}
        self._best: tuple[Frame, float] | None = None
        self._drawn: dict[str, Path] = {}

    def add(self, frame: Frame, logit: float) -> None:
        """Add a frame; the frames of a file must be consecutive."""
        if self._best is not None and self._best[0].path != frame.path:
            self._draw()
        if frame.pixels is not None and (self._best is None or logit > self._best[1]):
            self._best = (frame, logit)

    def finish(self) -> dict[str, Path]:
        """Draw the last file; return the pictures by file."""
        self._draw()
        return self._drawn

    def _draw(self) -> None:
        from corit.prediction.heatmap import draw_heatmap

        if self._best is None:
            return
        (frame, _), self._best = self._best, None
        assert frame.pixels is not None
        place = self._places[frame.path]
        draw_heatmap(self._trained, frame.pixels, place, title=frame.path.name, frame=frame.index, device=self._device)
        self._drawn[str(frame.path)] = place


def unique_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a name for each file: as few of its last folders as distinguish the files, joined with underscores.

    Numbers are added if that is not enough.

    >>> list(unique_names([Path("a/1.png"), Path("b/1.png"), Path("b/2.png")]).values())
    ['a_1.png', 'b_1.png', 'b_2.png']
    """
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["_".join(part for part in path.parts[-depth:] if part not in ("/", "..", ".")) for path in paths]
        if len(set(names)) == len(names):
            return dict(zip(paths, names, strict=True))
    return {path: f"{number}_{path.name}" for number, path in enumerate(paths)}


def save_predictions(found: Predictions, folder: Path) -> None:
    """Write ``scores.csv`` (by file) and ``frames.csv`` into a folder, created if missing."""
    make_folder(folder)
    write_text(folder / "scores.csv", found.files.to_csv(index=False))
    write_text(folder / "frames.csv", found.frames.to_csv(index=False))
