"""Images and features of the CoRIT studies, and finished fits: images are opened once, features and fits are stored.

The seeds train on images of different people, so that the spread over seeds includes that of the training set; the
validation and test images are the same for all seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from analyses.corit.heads import Split, choose_rate
from corit.model.content_hash import digest
from corit.model.features import FeatureMaker, find_shared_regions
from corit.training.config import DetectorTraining
from corit.training.tasks import build_untrained
from gsnr_toolkit.data.base import ForgeryDataset
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.models.spec import input_spec
from gsnr_toolkit.support.atomic import read_json, write_json

FAMILIES = ("nt", "df", "f2f", "fs", "cdf", "dfdc", "gan", "diff")
"""The embedded forgeries; the last four serve as test sets only."""


@dataclass(frozen=True)
class Bench:
    """What all fits of a study share.

    Attributes:
        encoder: The frozen encoder.
        strength: Strength of every forgery.
        train_images: Training images of each seed, half of them real.
        val_images: Validation images.
        test_images: Images of each test set.
        steps: Training steps of a head.
    """

    encoder: str = "clip-demo"
    strength: float = 1.0
    train_images: int = 1000
    val_images: int = 600
    test_images: int = 400
    steps: int = 400


SMOKE = Bench(train_images=48, val_images=32, test_images=32, steps=12)


@lru_cache(maxsize=64)
def open_images(bench: Bench, family: str, split: str, images: int, spec: Any) -> ForgeryDataset:
    """Open images of a family, or self-blended pairs of real images (``"sbi"``), once per process."""
    name = "demo-df" if family == "sbi" else f"demo-{family}"
    wanted = {"image_size": spec.image_size, "mean": spec.mean, "std": spec.std, "strength": bench.strength}
    found = open_dataset(name, split=split, size=images, **wanted)
    if family != "sbi":
        return found
    from corit.sbi import SelfBlended  # needs OpenCV, an optional dependency

    return SelfBlended(found)


class Extractor:
    """Features of one kind of detector. Shared regions, if it has any, are found on the training images.

    Args:
        bench: Encoder, strength and sizes.
        trained_on: Family, or ``"sbi"``.
        options: Fields of :class:`corit.training.config.DetectorTraining`: method and options of CoRIT.
        seeds: Number of seeds, which determines the number of training images.
        cache: Folder of stored features.
        device: Device of the encoder; the CPU when None.
    """

    def __init__(
        self,
        bench: Bench,
        trained_on: str,
        options: dict[str, Any],
        *,
        seeds: int,
        cache: Path | None,
        device: str | None = None,
    ) -> None:
        self.config = replace(DetectorTraining(encoder=bench.encoder), **options)
        self.bench, self.trained_on, self._images = bench, trained_on, bench.train_images * seeds
        self.model = build_untrained(self.config).to(device or "cpu")
        self.spec = input_spec(self.model)
        whole: Any = self.model
        if getattr(whole, "shared", None) is not None:
            find_shared_regions(whole, self._open(trained_on, "train", self._images), cache)
        self._maker = FeatureMaker(self.model, cache, device=device or "cpu")

    def _open(self, family: str, split: str, images: int) -> ForgeryDataset:
        return open_images(self.bench, family, split, images, self.spec)

    def training(self, seed: int) -> Split:
        """Return the training images of a seed."""
        return self._split(self.trained_on, "train", self._images).part(seed, self.bench.train_images)

    def validation(self) -> Split:
        """Return validation images of the kind that is trained on."""
        return self._split(self.trained_on, "val", self.bench.val_images)

    def tests(self) -> dict[str, Split]:
        """Return the test images of every family."""
        return {family: self._split(family, "test", self.bench.test_images) for family in FAMILIES}

    @lru_cache(maxsize=16)  # noqa: B019 - as below
    def rate(self, seed: int) -> float:
        """Return the learning rate of a seed, chosen on validation data."""
        return choose_rate(self.training(seed), self.validation(), seed=seed, steps=self.bench.steps)

    @lru_cache(maxsize=16)  # noqa: B019 - an extractor lives as long as its features are needed
    def _split(self, family: str, split: str, images: int) -> Split:
        data = self._open(family, split, images)
        return Split(self._maker(data), torch.tensor(data.labels))


def fit_once(runs: Path, about: dict[str, Any], make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the rows of a fit; compute and store them unless they are stored already."""
    path = fit_path(runs, about)
    if path.exists():
        return read_json(path)
    rows = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, rows)
    return rows


def fit_path(runs: Path, about: dict[str, Any]) -> Path:
    """Return the file of a fit, named by the hash of everything that determines it."""
    plain = {name: asdict(value) if isinstance(value, Bench) else value for name, value in about.items()}
    return runs / "fits" / f"{digest(plain)}.json"
