"""The base class of all data sets of real and forged images, and the balanced draw that a probe measures on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gsnr_toolkit.data.checks import DataError, check_choice
from gsnr_toolkit.data.transforms import CLIP_MEAN, CLIP_STD, FITS, image_to_tensor
from gsnr_toolkit.errors import ProbeWarning

__all__ = ["COLUMNS", "FAKE", "REAL", "DataError", "ForgeryDataset", "probe_indices"]

REAL, FAKE = 0, 1

#: The columns that ``records`` must have; a data set may add others, such as ``path``.
COLUMNS = ("id", "label", "source", "method", "split")


class ForgeryDataset(Dataset[tuple[Tensor, int]]):
    """Labelled images, described by one table.

    A subclass implements :meth:`load_image`, which reads one image; this class applies the transform and adds the
    label. Item ``i`` is ``(image, label)``: a normalised float32 tensor ``(3, image_size, image_size)`` and an
    ``int``.

    Attributes:
        name: The name by which the data set was opened, such as ``"demo-nt"``.
        caption: The name of the data in figure captions: ``"embedded data"``, or the data set's proper name.
        records: One row per item: ``id`` (unique text), ``label`` (0 real, 1 fake), ``source`` (identity or
            video: the unit of independence), ``method`` (``"real"`` or the forgery's name), ``split``, and
            ``domain`` (the test set to which a row of a results table refers; :attr:`name` by default).
        skipped: What was left out and why, in the columns ``path`` and ``reason``; often empty.
        notes: Sentences that a reader of results on these data must know; often none.
        image_size: Side of the images, in pixels.
        mean: Mean by channel for the normalisation.
        std: Standard deviation by channel for the normalisation.
        fit: How an image is made square; see :func:`gsnr_toolkit.data.transforms.fit_square`.
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
        check_choice("fit", fit, FITS, ValueError)
        if image_size < 1:
            raise ValueError(
                f"expected image_size to be a positive number of pixels, got {image_size}; pass a side such as 224"
            )
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
        raise NotImplementedError(
            f"expected a data set that reads images, but {type(self).__name__} has no load_image; implement "
            "load_image(index)"
        )

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Labels of all items, ``(len(self),)``: 0 real, 1 fake."""
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
    """Check the table once, on construction, so that no later step has to."""
    missing = [column for column in COLUMNS if column not in records.columns]
    if missing:
        raise DataError(
            f"expected the records of {name!r} to have the columns {list(COLUMNS)}, but {missing} are missing; add them"
        )
    if records.empty:
        raise DataError(f"expected images in {name!r}, got an empty table of records; pass one row per image")
    unknown = sorted(set(records["label"].unique()) - {REAL, FAKE}, key=str)
    if unknown:
        raise DataError(f"expected the labels of {name!r} to be 0 (real) or 1 (fake), got {unknown}; map them")
    twice = records["id"][records["id"].duplicated()]
    if len(twice):
        raise DataError(
            f"expected unique ids in {name!r}, but {twice.iloc[0]!r} occurs more than once; add the folder or a number"
        )
    records = records.reset_index(drop=True)
    return records if "domain" in records.columns else records.assign(domain=name)


def probe_indices(records: pd.DataFrame, n: int, seed: int = 0) -> list[int]:
    """Draw a class-balanced set of items that are independent where the data allow it.

    Half of the items are real and half are fake, and no two share a source: frames of one video, or pictures of one
    face, are correlated, so that the effective sample size would be smaller than ``n``. Each consecutive pair of
    the result holds one item of each class, in random order. Every mini-batch of even size, taken in order, is
    therefore exactly balanced.

    Two shortages are reported by a warning. If a class has fewer than ``n / 2`` items, fewer items of both classes
    are drawn. If there are too few sources, sources are reused, the least used first.

    Args:
        records: A table with the columns ``label`` and ``source``, such as ``ForgeryDataset.records``.
        n: Number of items; if it is odd, the last item has no partner.
        seed: Equal seeds draw the same items in the same order.

    Returns:
        Row numbers (positions, not index labels): ``n`` of them, or as many as the balance allows.

    Raises:
        DataError: If a class has no items.
        ValueError: If ``n`` is smaller than 2.

    >>> table = pd.DataFrame({"label": [0, 0, 1, 1], "source": ["a", "b", "a", "b"]})
    >>> chosen = probe_indices(table, 2, seed=0)
    >>> sorted(table.label[chosen]), table.source[chosen].nunique()
    ([0, 1], 2)
    """
    if n < 2:
        raise ValueError(f"expected n >= 2 probe items, one real and one fake at least, got n={n}; ask for more")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(records))
    labels = records["label"].to_numpy()[order]
    sources, _ = pd.factorize(records["source"].to_numpy()[order])
    wanted = _wanted_per_class(labels, n)
    first = _first_of_each_source(labels, sources)
    chosen = _rebalance(_one_per_source(first, wanted), first, wanted)
    reused = _reuse_sources(labels, sources, wanted, chosen)
    if reused:
        total = sum(wanted.values())
        warnings.warn(
            f"only {total - reused} of the {total} probe items have a source (video or identity) that no other item "
            f"has. The other {reused} share one, so items are correlated and intervals may be too narrow. Ask for at "
            f"most {total - reused} samples to avoid this",
            ProbeWarning,
            stacklevel=2,
        )
    flip = rng.integers(0, 2, size=n).astype(bool)
    return [int(order[position]) for position in _interleave(chosen[REAL], chosen[FAKE], flip)]


def _wanted_per_class(labels: np.ndarray[Any, Any], n: int) -> dict[int, int]:
    """Return ``n / 2`` for each class, or fewer, so that the classes stay balanced."""
    available = {label: int((labels == label).sum()) for label in (REAL, FAKE)}
    for label, word in ((REAL, "real"), (FAKE, "fake")):
        if available[label] == 0:
            raise DataError(
                f"expected items of both classes, but none of the {len(labels)} items is {word}; open data with both"
            )
    wanted = {REAL: n // 2, FAKE: n - n // 2}
    if all(available[label] >= wanted[label] for label in wanted):
        return wanted
    half = min(available.values())
    warnings.warn(
        f"{n} probe items were requested, but there are {available[REAL]} real and {available[FAKE]} fake ones. "
        f"Drawing {half} of each class, {2 * half} in all",
        ProbeWarning,
        stacklevel=3,
    )
    return {REAL: half, FAKE: half}


# Positions chosen so far, or available: class -> source -> position in the shuffled table.
_Positions = dict[int, dict[int, int]]


def _first_of_each_source(labels: np.ndarray[Any, Any], sources: np.ndarray[Any, Any]) -> _Positions:
    """Return each source's first item of each class; the arrays are in random order, so it is a random one."""
    first = pd.DataFrame({"source": sources, "label": labels, "position": np.arange(len(labels))})
    first = first.drop_duplicates(["source", "label"]).sort_values("source")
    found: _Positions = {REAL: {}, FAKE: {}}
    for source, label, position in first.itertuples(index=False):
        found[int(label)][int(source)] = int(position)
    return found


def _one_per_source(first: _Positions, wanted: dict[int, int]) -> _Positions:
    """Give each source to one class, until each class has what it wants or no source is left."""
    # A source with items of both classes serves the class that lacks more of them.
    taken: _Positions = {REAL: {}, FAKE: {}}
    for source in sorted(first[REAL].keys() | first[FAKE].keys()):
        lack = {label: wanted[label] - len(taken[label]) for label in first if source in first[label]}
        label = max(lack, key=lambda key: lack[key])
        if lack[label] > 0:
            taken[label][source] = first[label][source]
    return taken


def _rebalance(taken: _Positions, first: _Positions, wanted: dict[int, int]) -> dict[int, list[int]]:
    """Hand sources over to a class that came up short; return the positions per class."""
    # _one_per_source is greedy: it may give a source with items of both classes to a class that could have used
    # another source. Here that class takes such an unused source in exchange.
    for short, other in ((REAL, FAKE), (FAKE, REAL)):
        used = taken[REAL].keys() | taken[FAKE].keys()
        movable = [source for source in taken[other] if source in first[short]]
        spare = [source for source in first[other] if source not in used]
        lacking = wanted[short] - len(taken[short])
        for source, substitute in zip(movable[:lacking], reversed(spare), strict=False):
            del taken[other][source]
            taken[short][source] = first[short][source]
            taken[other][substitute] = first[other][substitute]
    return {label: sorted(taken[label].values()) for label in taken}


def _reuse_sources(
    labels: np.ndarray[Any, Any],
    sources: np.ndarray[Any, Any],
    wanted: dict[int, int],
    chosen: dict[int, list[int]],
) -> int:
    """Fill up the chosen items, in place, from sources already in use, the least used first; return how many."""
    reused = 0
    for label in (REAL, FAKE):
        lacking = wanted[label] - len(chosen[label])
        if lacking <= 0:
            continue
        uses = np.bincount(sources[chosen[REAL] + chosen[FAKE]], minlength=int(sources.max()) + 1)
        rest = np.setdiff1d(np.flatnonzero(labels == label), chosen[label])
        # The k-th further item of a source ranks behind all items of sources that are used less often.
        rank = uses[sources[rest]] + pd.Series(sources[rest]).groupby(sources[rest]).cumcount().to_numpy()
        extra = rest[np.argsort(rank, kind="stable")[:lacking]]
        chosen[label].extend(int(position) for position in extra)
        reused += lacking
    return reused


def _interleave(real: list[int], fake: list[int], flip: np.ndarray[Any, Any]) -> list[int]:
    """Alternate the classes; a coin flip per pair decides which class comes first."""
    paired = [pair[::-1] if swap else pair for pair, swap in zip(zip(real, fake, strict=False), flip, strict=False)]
    shorter = min(len(real), len(fake))
    return [position for pair in paired for position in pair] + real[shorter:] + fake[shorter:]
