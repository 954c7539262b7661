"""The embedded forgery data sets, ``demo-df`` to ``demo-diff``."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gsnr_toolkit.data.base import FAKE, REAL, ForgeryDataset
from gsnr_toolkit.data.checks import check_choice
from gsnr_toolkit.data.demo.families import FAMILIES
from gsnr_toolkit.data.demo.pairs import DemoPair, Pixels, check_family, demo_pair, demo_pairs
from gsnr_toolkit.data.demo.splits import FORGERY_SPLITS, identities
from gsnr_toolkit.data.transforms import CLIP_MEAN, CLIP_STD

DEFAULT_SIZES: MappingProxyType[str, int] = MappingProxyType({"train": 4000, "val": 1000, "test": 2000})
"""Default number of images of each split."""

_BLOCK = 16
"""Identities rendered at a time: larger blocks are hardly faster per face, and waste more if few items are read."""


class DemoDataset(ForgeryDataset):
    """Procedural faces and their forgeries, rendered on first use and kept as bytes.

    Items ``2k`` and ``2k + 1`` are the real and the forged image of one identity, so that both classes contain the
    same people. An image depends on the seed, the split and the item's number only.

    Args:
        family: A key of :data:`.families.FAMILIES`, such as ``nt``.
        split: ``train``, ``val`` or ``test``; no identity occurs in two of them.
        image_size: Side of the images in pixels; faces are rendered at this size, never rescaled.
        mean: Mean by channel for the normalisation.
        std: Standard deviation by channel for the normalisation.
        size: Number of images, or None for the split's default (4000, 1000, 2000).
        seed: Seed of faces, cameras and forgeries.
        strength: Strength of the forgery, or None for the family's default of 1.

    Raises:
        ValueError: If the family or the split is unknown, or the size is below 2.

    >>> data = open_demo("nt", size=4, image_size=32)
    >>> image, label = data[1]
    >>> tuple(image.shape), label, data.records.source.nunique()
    ((3, 32, 32), 1, 2)
    """

    def __init__(
        self,
        family: str,
        *,
        split: str = "train",
        image_size: int = 64,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        size: int | None = None,
        seed: int = 0,
        strength: float | None = None,
    ) -> None:
        check_family(family)
        check_choice("split", split, FORGERY_SPLITS, ValueError)
        size = DEFAULT_SIZES[split] if size is None else size
        if size < 2:
            raise ValueError(
                f"expected size to be at least 2, a real and a forged image, got {size}; leave it out for the default"
            )
        self.family, self.seed = family, seed
        self.strength = 1.0 if strength is None else strength
        self._identity = identities(split, (size + 1) // 2)
        self._blocks: dict[int, Pixels] = {}
        super().__init__(
            f"demo-{family}",
            _records(family, split, self._identity + FAMILIES[family].world.offset, size),
            caption="embedded data",
            image_size=image_size,
            mean=mean,
            std=std,
        )

    def load_image(self, index: int) -> Pixels:
        """Return the pixels of item ``index``; render its block of identities on first use.

        Args:
            index: Row number in ``records``.

        Returns:
            Pixels (S, S, 3), uint8.
        """
        block, place = divmod(index, 2 * _BLOCK)
        if block not in self._blocks:
            self._blocks[block] = self._render(block)
        return self._blocks[block][place]

    def pair(self, index: int) -> DemoPair:
        """Return the pair that contains item ``index``, with mask, landmarks and attributes.

        Args:
            index: Row number in ``records``.

        Returns:
            The pair at the data set's size, seed and strength.
        """
        number = int(self._identity[index // 2])
        return demo_pair(self.family, number, size=self.image_size, seed=self.seed, strength=self.strength)

    def _render(self, block: int) -> Pixels:
        numbers = self._identity[block * _BLOCK : (block + 1) * _BLOCK]
        real, fake, _ = demo_pairs(self.family, numbers, size=self.image_size, seed=self.seed, strength=self.strength)
        return np.stack([real, fake], axis=1).reshape(-1, *real.shape[1:])


def _records(family: str, split: str, identity: NDArray[np.int64], size: int) -> pd.DataFrame:
    source = np.repeat([f"face-{number}" for number in identity], 2)[:size]
    label = np.tile([REAL, FAKE], len(identity))[:size]
    method = np.where(label == FAKE, family, "real")
    return pd.DataFrame(
        {
            "id": [f"{who}-{how}" for who, how in zip(source, method, strict=True)],
            "label": label,
            "source": source,
            "method": method,
            "split": split,
        }
    )


#: Open one of the embedded forgery data sets; the name under which registry and documentation know the class.
open_demo = DemoDataset
