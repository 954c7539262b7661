"""Self-blended pairs of a data set's real images, as a :class:`ForgeryDataset`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from torch.utils.data import get_worker_info

from corit.sbi.blend import SelfBlend, self_blend
from corit.sbi.faces import Face
from corit.sbi.recipe import Recipe
from corit.sbi.seeds import SMALLEST_SIDE, Pixels, as_pixels, content_seed
from corit.sbi.sources import FaceFinder, source_of_faces
from gsnr_toolkit.data.base import FAKE, REAL, DataError, ForgeryDataset
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.data.transforms import fit_square, image_to_tensor
from gsnr_toolkit.errors import ProbeWarning

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DATA_VARIABLE", "SEEDINGS", "SelfBlended", "open_sbi"]

#: Environment variable with the data set that :func:`open_sbi` takes real images from.
DATA_VARIABLE = "CORIT_SBI_DATA"

SEEDINGS = ("epoch", "content")

#: Row number, or row number and epoch.
Place = int | tuple[int, int]


class SelfBlended(ForgeryDataset):
    """Pairs made from the real images of a data set; the data set's own forgeries are not used.

    Row ``2k`` is the target of pair ``k`` (label 0, method ``real``), row ``2k + 1`` its blend (label 1, method
    ``sbi``). Both keep the source, the split and the other columns of the real image.

    A pair depends on the image's bytes. With ``seeding="epoch"`` it also depends on ``seed`` and the epoch:
    :attr:`epoch`, or the epoch given as ``data[row, epoch]``, which is what :func:`corit.sbi.loaders.pair_loader` does.
    Reading never changes what is read next, so a probe may iterate over the data any number of times.

    Images larger than ``image_size`` are cropped around the face before and after blending. Images of exactly that size
    keep all their pixels. With ``fit="crop"`` a random square is cropped first, without resampling.

    Args:
        data: The source of the real images.
        masks: ``"auto"``, ``"landmarks"``, ``"aligned"``, ``"generic"`` or a function; see
            :func:`corit.sbi.sources.source_of_faces`. ``"auto"`` warns if landmarks are missing.
        recipe: Probabilities and ranges; the defaults of :class:`Recipe` when None.
        seed: Random seed of ``seeding="epoch"``.
        seeding: ``"epoch"`` or ``"content"``; by default the former for the split ``train`` and the latter for others.

    Attributes:
        epoch: The epoch of rows that are read without one.

    Raises:
        DataError: If there is no real image, images cannot be read as pixels, or an argument is out of its range.

    >>> from gsnr_toolkit.data.demo.dataset import open_demo
    >>> data = SelfBlended(open_demo("nt", size=4, image_size=32))
    >>> data.records[["label", "method"]].values.tolist()
    [[0, 'real'], [1, 'sbi'], [0, 'real'], [1, 'sbi']]
    >>> data.pair(1).outline
    '81 landmarks'
    """

    def __init__(
        self,
        data: ForgeryDataset,
        *,
        masks: str | FaceFinder = "auto",
        recipe: Recipe | None = None,
        seed: int = 0,
        seeding: str | None = None,
    ) -> None:
        rows = np.flatnonzero(data.labels == REAL)
        _check(data, len(rows), seed, seeding)
        self.inner, self.epoch, self.seed = data, 0, seed
        self.seeding = seeding or ("epoch" if (data.records["split"] == "train").all() else "content")
        self.recipe = Recipe() if recipe is None else recipe
        self._rows = rows
        self._faces = source_of_faces(data, rows, masks)
        notes = [
            f"forgeries are self-blended images of the {len(rows)} real images of {data.name}, not its own forgeries",
            self._faces.note,
        ]
        if self._faces.fallback is not None:
            notes.append(f"self-blending falls back to {self._faces.fallback}")
            warnings.warn(f"{data.name}: {notes[-1]}", ProbeWarning, stacklevel=2)
        super().__init__(
            f"sbi-{data.name}",
            _records(data.records.iloc[rows]),
            caption=f"self-blended {data.caption}",
            skipped=data.skipped,
            notes=[*data.notes, *notes],
            image_size=data.image_size,
            mean=data.mean,
            std=data.std,
            fit=data.fit,
        )

    def pair(self, index: int, epoch: int | None = None) -> SelfBlend:
        """Return the pair that a row belongs to, with its mask, at the size of its crop, not of ``image_size``.

        The epoch is :attr:`epoch` by default. It is ignored if seeds come from content alone.
        """
        pixels, known = self.origin(index)
        seed = [content_seed(pixels)]
        if self.seeding == "epoch":
            seed += [self.seed, self.epoch if epoch is None else epoch]
        pixels, face, recipe = self._prepared(pixels, known, seed)
        return self_blend(pixels, face, seed=seed, recipe=recipe)

    def origin(self, index: int) -> tuple[Pixels, Face | None]:
        """Return the real image that a row's pair is made from, and its face if known."""
        row = int(self._rows[index // 2])
        pixels = as_pixels(np.array(_rgb(self.inner.load_image(row))))
        return pixels, self._faces.find(row, pixels)

    def load_image(self, index: int) -> Pixels:
        """Return row ``index`` at :attr:`epoch`, uint8 (H, W, 3)."""
        pair = self.pair(index)
        return pair.blend if index % 2 else pair.target

    def __getitem__(self, index: Place) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[Place]) -> list[tuple[Tensor, int]]:
        """Read rows, or tuples of row and epoch, as ``(image, label)``; make a pair once if both its rows are read."""
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # the workers already run in parallel
        made: dict[tuple[int, int], SelfBlend] = {}
        items = []
        for place in indices:
            index, epoch = place if isinstance(place, tuple) else (place, self.epoch)
            if not -len(self) <= index < len(self):
                raise IndexError(f"expected a row below {len(self)}, got row {index}; see len(dataset)")
            number, member = divmod(int(index) % len(self), 2)
            pair = made.get((number, epoch)) or made.setdefault((number, epoch), self.pair(2 * number, epoch))
            image = pair.blend if member else pair.target
            items.append((image_to_tensor(image, self.image_size, self.mean, self.std, self.fit), member))
        return items

    def _prepared(self, pixels: Pixels, face: Face | None, seed: Sequence[int]) -> tuple[Pixels, Face | None, Recipe]:
        """Return image, face and recipe for ``self_blend``; ``fit="crop"`` crops here, without resampling."""
        size = self.image_size
        height, width = pixels.shape[:2]
        # An image of exactly the wanted size keeps all its pixels. A larger one is cropped around the face, and scaled
        # down to at most twice that size after the first crop.
        if self.fit != "crop":
            spare = min(height, width) > size
            largest = self.recipe.largest or max(2 * size, SMALLEST_SIDE)
            recipe = replace(self.recipe, crop=self.recipe.crop and spare, largest=largest)
            return pixels, face, recipe
        recipe = replace(self.recipe, crop=False)
        if min(height, width) < size:
            return np.array(fit_square(Image.fromarray(pixels), size, "crop")), None, recipe
        rng = np.random.default_rng([*seed, size])
        left, top = int(rng.integers(width - size + 1)), int(rng.integers(height - size + 1))
        square = np.ascontiguousarray(pixels[top : top + size, left : left + size])
        return square, None if face is None else face.moved(1, left, top), recipe


def open_sbi(
    *,
    data: str | None = None,
    split: str = "train",
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    root: str | os.PathLike[str] | None = None,
    size: int | None = None,
    seed: int = 0,
    masks: str = "auto",
    **options: Any,
) -> SelfBlended:
    """Open self-blended pairs by name: ``gsnr-probe --data corit.sbi:open_sbi``.

    Args:
        data: Name of the data set with the real images, as in :func:`gsnr_toolkit.data.open_dataset`; by default the
            value of the environment variable ``CORIT_SBI_DATA``, or ``"demo-df"``.
        split: ``"train"``, ``"val"`` or ``"test"``; in the last two, seeds come from content.
        image_size: Side of the images, in pixels.
        mean: Mean by channel to normalise with.
        std: Standard deviation by channel.
        root: Folder of a data set on disk.
        size: Maximum number of items, half of them blends.
        seed: Seed of everything random.
        masks: As in :class:`SelfBlended`.
        **options: Further options of the data set.

    Returns:
        The pairs.

    >>> open_sbi(size=4, image_size=32)
    SelfBlended('sbi-demo-df': 2 real, 2 fake, 32 px)
    """
    name = data or os.environ.get(DATA_VARIABLE) or "demo-df"
    inner = open_dataset(
        name, split=split, image_size=image_size, mean=mean, std=std, root=root, size=size, seed=seed, **options
    )
    return SelfBlended(inner, masks=masks, seed=seed)


def _check(data: ForgeryDataset, real: int, seed: int, seeding: str | None) -> None:
    if type(data).load_image is ForgeryDataset.load_image:
        raise DataError(
            f"{data.name}: expected images as pixels for self-blending, but the data set returns tensors; make it a "
            "ForgeryDataset with load_image(index) -> uint8 array (H, W, 3), or pass images to in_memory"
        )
    if real == 0:
        raise DataError(f"{data.name}: expected real images (label 0) to blend, but it has none; add real images")
    if seeding is not None and seeding not in SEEDINGS:
        raise DataError(
            f"expected seeding to be one of {', '.join(SEEDINGS)}, got {seeding!r}; leave it out for the default"
        )
    if seed < 0:
        raise DataError(f"expected a seed of at least 0, got {seed}; pass a non-negative integer")


def _records(real: pd.DataFrame) -> pd.DataFrame:
    """Return two rows for each real image: the image itself, and its blend."""
    both = real.loc[real.index.repeat(2)].reset_index(drop=True)
    blend = np.tile([False, True], len(real))
    both["label"] = np.where(blend, FAKE, REAL)
    both["method"] = np.where(blend, "sbi", "real")
    both["id"] = [f"{name}#sbi" if fake else name for name, fake in zip(both["id"], blend, strict=True)]
    return both


def _rgb(image: Any) -> Any:
    return image if isinstance(image, np.ndarray) else image.convert("RGB")
