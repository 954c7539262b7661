"""Images for training: pairs of real images and their blends, or real images and the data set's forgeries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler

from corit.training.config import DetectorTraining
from gsnr_toolkit.data.base import ForgeryDataset
from gsnr_toolkit.data.loaders import BalancedBatches
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.models.spec import InputSpec

__all__ = ["EndlessPlaces", "open_evaluation", "open_split"]

Place = tuple[int, int]


def open_split(config: DetectorTraining, split: str, spec: InputSpec) -> ForgeryDataset:
    """Open pairs blended from the real images of a split, or the split itself if ``config.fakes`` is ``"given"``."""
    size = config.train_samples if split == "train" else config.val_samples
    given = {"strength": config.strength, "compression": config.compression}
    dataset = _open(config.data, split, spec, config, size=size, frames_per_video=config.frames_per_video, **given)
    if config.fakes == "given":
        return dataset
    from corit.sbi import SelfBlended

    return SelfBlended(dataset, masks=config.faces)


def open_evaluation(config: DetectorTraining, name: str, spec: InputSpec) -> ForgeryDataset:
    """Open a data set to test on: its test split, with its own forgeries."""
    own = name == config.data
    given = {"strength": config.strength, "compression": config.compression} if own else {}
    return _open(name, "test", spec, config, size=config.eval_samples, **given)


def _open(name: str, split: str, spec: InputSpec, config: DetectorTraining, **options: Any) -> ForgeryDataset:
    return open_dataset(
        name,
        split=split,
        image_size=spec.image_size,
        mean=spec.mean,
        std=spec.std,
        root=None if name.startswith("demo-") else config.data_root,
        **{option: value for option, value in options.items() if value is not None},
    )


class EndlessPlaces(Sampler[list[Place]]):
    """Endless batches of ``(row, view)``, half real and half fake; batch t is the same wherever the iteration starts.

    Self-blended batches hold whole pairs, and epoch e shows the blends of view ``e % views``. Other data have one view;
    every epoch draws new items from the larger class.

    Args:
        dataset: The result of :func:`open_split`.
        batch_size: Images per batch.
        seed: Seed of the order.
        views: Number of blends per image.
        start: Number of the first batch.

    >>> from corit.sbi import open_sbi
    >>> places = EndlessPlaces(open_sbi(size=4, image_size=32), batch_size=4, views=2)
    >>> [sorted(batch) for batch, _ in zip(places, range(2))]
    [[(0, 0), (1, 0), (2, 0), (3, 0)], [(0, 1), (1, 1), (2, 1), (3, 1)]]
    """

    def __init__(
        self, dataset: ForgeryDataset, batch_size: int, *, seed: int = 0, views: int = 1, start: int = 0
    ) -> None:
        self._epochs: Any
        if hasattr(dataset, "seeding"):
            from corit.sbi import PairBatches

            self._epochs, self._views = PairBatches(len(dataset) // 2, batch_size, seed), views
        else:
            self._epochs, self._views = BalancedBatches(dataset.labels, batch_size, seed), 1
        self._start = start

    def __iter__(self) -> Iterator[list[Place]]:
        epoch, skip = divmod(self._start, len(self._epochs))
        while True:
            self._epochs.epoch = epoch
            for number, batch in enumerate(self._epochs):
                if number >= skip:
                    yield [(item[0] if isinstance(item, tuple) else item, epoch % self._views) for item in batch]
            epoch, skip = epoch + 1, 0
