"""What every data set of real and forged images has in common, and the balanced draw a probe measures on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from gsnr_toolkit.data.transforms import CLIP_MEAN, CLIP_STD, FITS, image_to_tensor
from gsnr_toolkit.errors import ProbeError, ProbeWarning

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["COLUMNS", "FAKE", "REAL", "DataError", "ForgeryDataset", "probe_indices"]

REAL, FAKE = 0, 1

#: The columns that a data set has to give its ``records``; it may add its own (such as ``path``).
COLUMNS = ("id", "label", "source", "method", "split")


class DataError(ProbeError):
    """Data that is not there, or is not what was asked for."""


class ForgeryDataset(Dataset[tuple["Tensor", int]]):
    """Labelled images, described by one table.

    A subclass says how one image is read (:meth:`load_image`); the table, the transform and the labels are
    here. Item ``i`` is ``(image, label)``: a normalised float32 tensor ``(3, image_size, image_size)`` and an
    ``int``.

    Attributes:
        name: The name by which it was opened, such as ``"demo-nt"``.
        caption: What a figure caption calls the data: ``"embedded data"``, or the data set's proper name.
        records: One row per item: ``id`` (unique text), ``label`` (0 real, 1 fake), ``source`` (identity or
            video: the unit of independence), ``method`` (``"real"`` or the forgery's name), ``split``, and
            ``domain`` (the test set that a row of a table is about: :attr:`name`, unless the data say otherwise).
        skipped: What was left out and why, columns ``path`` and ``reason``; empty where nothing was.
        notes: What a reader of a result on these data has to know, a sentence each; often none.
        image_size: Side of the images, in pixels.
        mean: Mean by channel that the images are normalised with.
        std: Standard deviation by channel that the images are normalised with.
        fit: How an image is brought to the square; see :func:`gsnr_toolkit.data.transforms.fit_square`.
    """

    def __init__(
        self,
        name: str,
        records: pd.DataFrame,
        *,
        caption: str | None = None,
        skipped: pd.DataFrame | None = None,
        notes: Sequence[str] = (),
        image_size: int = 64,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        fit: str = "shortest",
    ) -> None:
        if fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, but got {fit!r}")
        if image_size < 1:
            raise ValueError(f"image_size must be a positive number of pixels, but got {image_size}")
        self.name = name
        self.caption = caption if caption is not None else name
        self.records = _checked(name, records)
        self.skipped = skipped if skipped is not None else pd.DataFrame({"path": [], "reason": []}, dtype=str)
        self.notes = tuple(notes)
        self.image_size = image_size
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.fit = fit

    def load_image(self, index: int) -> Image.Image | np.ndarray[Any, Any]:
        """Read item ``index`` as a PIL image or a uint8 array ``(H, W, 3)``.

        Args:
            index: Row number in :attr:`records`.

        Raises:
            NotImplementedError: In the base class.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement load_image(index)")

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The labels of all items, ``(len(self),)``: 0 real, 1 fake."""
        return self.records["label"].to_numpy(dtype=np.int64)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label = int(self.records["label"].iloc[index])
        image = self.load_image(index if index >= 0 else len(self) + index)
        return image_to_tensor(image, self.image_size, self.mean, self.std, self.fit), label

    def __repr__(self) -> str:
        real, fake = (int((self.labels == label).sum()) for label in (REAL, FAKE))
        skipped = f", {len(self.skipped)} skipped" if len(self.skipped) else ""
        return f"{type(self).__name__}({self.name!r}: {real} real, {fake} fake{skipped}, {self.image_size} px)"


def _checked(name: str, records: pd.DataFrame) -> pd.DataFrame:
    # Checked once, when the data set is made, so that no later step meets a surprise.
    missing = [column for column in COLUMNS if column not in records.columns]
    if missing:
        raise DataError(f"the records of {name!r} lack the columns {missing}; they need {list(COLUMNS)}")
    if records.empty:
        raise DataError(f"{name!r} holds no image at all")
    unknown = sorted(set(records["label"].unique()) - {REAL, FAKE}, key=str)
    if unknown:
        raise DataError(f"the labels of {name!r} must be 0 (real) or 1 (fake), but {unknown} occur")
    twice = records["id"][records["id"].duplicated()]
    if len(twice):
        raise DataError(f"the ids of {name!r} must be unique, but {twice.iloc[0]!r} occurs more than once")
    records = records.reset_index(drop=True)
    return records if "domain" in records.columns else records.assign(domain=name)


def probe_indices(records: pd.DataFrame, n: int, seed: int = 0) -> list[int]:
    """Draw a class-balanced set of (as far as possible) independent items.

    Half of the items are real and half are fake, and no two of them share a source, because frames of one
    video or pictures of one face are correlated and would make the sample size look larger than it is. Each
    consecutive pair in the answer holds one item of either class, in random order: every mini-batch of even
    size cut from the front is exactly balanced.

    Where that cannot be had, the draw says so in a warning: a class with fewer than ``n / 2`` items makes the
    draw smaller (balance is kept), and too few sources make it reuse some of them, the least used first.

    Args:
        records: A table with the columns ``label`` and ``source``, such as ``ForgeryDataset.records``.
        n: How many items are wanted; for an odd number the last one has no partner.
        seed: The same seed draws the same items in the same order.

    Returns:
        Row numbers (positions, not index labels), ``n`` of them or as many as balance allows.

    Raises:
        DataError: If a class has no item.
        ValueError: If ``n`` is smaller than 2.

    >>> table = pd.DataFrame({"label": [0, 0, 1, 1], "source": ["a", "b", "a", "b"]})
    >>> chosen = probe_indices(table, 2, seed=0)
    >>> sorted(table.label[chosen]), table.source[chosen].nunique()
    ([0, 1], 2)
    """
    if n < 2:
        raise ValueError(f"a probe needs at least one real and one fake item, so n >= 2, but got n={n}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(records))
    labels = records["label"].to_numpy()[order]
    sources, _ = pd.factorize(records["source"].to_numpy()[order])
    wanted = _wanted_per_class(labels, n)
    chosen = _one_per_source(labels, sources, wanted)
    reused = _reuse_sources(labels, sources, wanted, chosen)
    if reused:
        total = sum(wanted.values())
        warnings.warn(
            f"only {total - reused} of the {total} probe items come from sources of their own: {reused} "
            "share a source (video or identity) with another, so they are correlated and intervals may be "
            f"too narrow. Ask for at most {total - reused} samples to avoid this",
            ProbeWarning,
            stacklevel=2,
        )
    flip = rng.integers(0, 2, size=n).astype(bool)
    return [int(order[position]) for position in _interleave(chosen[REAL], chosen[FAKE], flip)]


def _wanted_per_class(labels: np.ndarray[Any, Any], n: int) -> dict[int, int]:
    # n / 2 of either class, or fewer so that the classes stay balanced.
    available = {label: int((labels == label).sum()) for label in (REAL, FAKE)}
    for label, word in ((REAL, "real"), (FAKE, "fake")):
        if available[label] == 0:
            raise DataError(f"a probe needs both classes, but there is no {word} item among {len(labels)}")
    wanted = {REAL: n // 2, FAKE: n - n // 2}
    if all(available[label] >= wanted[label] for label in wanted):
        return wanted
    half = min(available.values())
    warnings.warn(
        f"asked for {n} probe items, but there are {available[REAL]} real and {available[FAKE]} fake ones: "
        f"drawing {half} of either class, {2 * half} in all",
        ProbeWarning,
        stacklevel=3,
    )
    return {REAL: half, FAKE: half}


def _one_per_source(
    labels: np.ndarray[Any, Any], sources: np.ndarray[Any, Any], wanted: dict[int, int]
) -> dict[int, list[int]]:
    """Return positions per class such that no source serves twice.

    The walk follows the (random) order of the arrays. A source that has items of both classes serves the
    class that lacks more; at the end it is handed over if that class has other sources to spare.
    """
    first = pd.DataFrame({"source": sources, "label": labels, "position": np.arange(len(labels))})
    by_source = first.drop_duplicates(["source", "label"]).pivot(index="source", columns="label", values="position")
    by_source = by_source.reindex(columns=[REAL, FAKE])
    taken: dict[int, dict[int, int]] = {REAL: {}, FAKE: {}}
    spare: dict[int, dict[int, int]] = {REAL: {}, FAKE: {}}
    pairs: dict[int, dict[int, int]] = {}
    for source, real, fake in by_source.itertuples():
        has = {label: int(at) for label, at in ((REAL, real), (FAKE, fake)) if not np.isnan(at)}
        lack = {label: wanted[label] - len(taken[label]) for label in has}
        label = max(lack, key=lambda key: lack[key])
        (taken if lack[label] > 0 else spare)[label][source] = has[label]
        if len(has) == 2:
            pairs[source] = has
    for short, other in ((REAL, FAKE), (FAKE, REAL)):
        movable = [source for source in taken[other] if source in pairs]
        for source in movable[: min(wanted[short] - len(taken[short]), len(spare[other]))]:
            del taken[other][source]
            taken[short][source] = pairs[source][short]
            substitute, position = spare[other].popitem()
            taken[other][substitute] = position
    return {label: sorted(taken[label].values()) for label in taken}


def _reuse_sources(
    labels: np.ndarray[Any, Any],
    sources: np.ndarray[Any, Any],
    wanted: dict[int, int],
    chosen: dict[int, list[int]],
) -> int:
    """Return how many items had to be added (in place) from sources in use, the least used first."""
    reused = 0
    for label in (REAL, FAKE):
        lacking = wanted[label] - len(chosen[label])
        if lacking <= 0:
            continue
        uses = np.bincount(sources[chosen[REAL] + chosen[FAKE]], minlength=int(sources.max()) + 1)
        rest = np.setdiff1d(np.flatnonzero(labels == label), chosen[label])
        rank = uses[sources[rest]] + pd.Series(sources[rest]).groupby(sources[rest]).cumcount().to_numpy()
        extra = rest[np.argsort(rank, kind="stable")[:lacking]]
        chosen[label].extend(int(position) for position in extra)
        reused += lacking
    return reused


def _interleave(real: list[int], fake: list[int], flip: np.ndarray[Any, Any]) -> list[int]:
    """Return the classes in alternation, each pair in the order that its coin says."""
    paired = [pair[::-1] if swap else pair for pair, swap in zip(zip(real, fake, strict=False), flip, strict=False)]
    shorter = min(len(real), len(fake))
    return [position for pair in paired for position in pair] + real[shorter:] + fake[shorter:]
