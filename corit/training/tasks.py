"""Training tasks with one interface: a head on cached features of a frozen encoder, or a whole model on images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from corit.model.counterparts import SelfBlendedCounterparts
from corit.model.detector import CoRIT
from corit.model.features import FeatureMaker, Places, find_shared_regions, head_logits, image_logits
from corit.training.config import DetectorTraining
from corit.training.data import EndlessPlaces, open_split
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.tuning import set_tuning
from gsnr_toolkit.models.clip import Detector
from gsnr_toolkit.models.registry import build_model
from gsnr_toolkit.models.spec import input_spec

__all__ = ["FeatureTask", "ImageTask", "build_untrained", "make_task"]

Batch = tuple[Tensor, Tensor]


def build_untrained(config: DetectorTraining) -> nn.Module:
    """Build the untrained detector of a config, with ``requires_grad`` set on the parameters to train."""
    if config.method != "corit":
        model = build_model(config.encoder, weights=config.weights, seed=config.seed)
        if not isinstance(model, Detector):
            raise ProbeError(
                f"expected a model with an encoder and a head, got {type(model).__name__} from {config.encoder!r}; "
                "return a gsnr_toolkit.models.Detector"
            )
        set_tuning(model, config.tuning)
        return model
    options = {name: value for name, value in config.corit.to_dict().items() if name != "encoder"}
    detector = CoRIT.from_encoder(config.encoder, weights=config.weights, seed=config.seed, **options)
    detector.counterpart = SelfBlendedCounterparts(config.counterpart_faces, detector.mean, detector.std)
    return detector


def make_task(
    config: DetectorTraining,
    device: torch.device,
    *,
    cache: str | Path | None = None,
    num_workers: int = 0,
    progress: bool = False,
) -> FeatureTask | ImageTask:
    """Build the detector and open its images; compute the features of a frozen encoder, or read them from ``cache``."""
    model = build_untrained(config).to(device)
    if config.frozen:
        return FeatureTask(config, model, device, cache, num_workers, progress)
    return ImageTask(config, model, device, num_workers)


class FeatureTask:
    """A head on features of a frozen encoder, which are computed before the first step.

    Attributes:
        model: The whole detector.
        module: The part that batches pass through: the head here, the whole detector in :class:`ImageTask`.
        val: The validation images.
    """

    def __init__(
        self,
        config: DetectorTraining,
        model: nn.Module,
        device: torch.device,
        cache: str | Path | None,
        num_workers: int,
        progress: bool,
    ) -> None:
        whole: Any = model
        self.model, self.module, self._config, self._device = model, whole.head, config, device
        spec = input_spec(model)
        self._train, self.val = (open_split(config, split, spec) for split in ("train", "val"))
        if isinstance(model, CoRIT) and model.shared is not None:
            find_shared_regions(model, self._train, cache)
        self.maker = FeatureMaker(model, cache, device=device, num_workers=num_workers)
        views = config.views if config.fakes == "sbi" else 1
        self._features = [
            self.maker(self._train, view, label=f"training features, view {view + 1}/{views}", progress=progress)
            for view in range(views)
        ]
        self._labels = torch.tensor(self._train.labels)
        self.val_features = self.maker(self.val, label="validation features", progress=progress)

    def batches(self, start: int) -> Iterator[Batch]:
        """Iterate endlessly over training batches, starting at number ``start``."""
        config = self._config
        for places in EndlessPlaces(
            self._train, config.batch_size, seed=config.seed, views=len(self._features), start=start
        ):
            rows = [row for row, _ in places]
            yield self._features[places[0][1]][rows], self._labels[rows]

    @torch.no_grad()
    def val_logits(self) -> NDArray[np.float64]:
        """Return the current logits of the validation images, ``(N,)``."""
        return head_logits(self.module, self.val_features, self._device)


class ImageTask:
    """A detector whose encoder is trained too, on images that are loaded and blended anew."""

    def __init__(self, config: DetectorTraining, model: nn.Module, device: torch.device, num_workers: int) -> None:
        self.model = self.module = model
        self._config, self._device, self._workers = config, device, num_workers
        spec = input_spec(model)
        self._train, self.val = (open_split(config, split, spec) for split in ("train", "val"))

    def batches(self, start: int) -> Iterator[Batch]:
        """Iterate endlessly over training batches, starting at number ``start``."""
        config = self._config
        views = config.views if config.fakes == "sbi" else 1
        places = EndlessPlaces(self._train, config.batch_size, seed=config.seed, views=views, start=start)
        own = torch.Generator().manual_seed(config.seed)
        items: Any = Places(self._train)
        return iter(DataLoader(items, batch_sampler=places, num_workers=self._workers, generator=own))

    def val_logits(self) -> NDArray[np.float64]:
        """Return the current logits of the validation images, ``(N,)``."""
        return image_logits(self.model, self.val, self._device, num_workers=self._workers)
