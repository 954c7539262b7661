"""Features of a frozen encoder, computed once: kept in memory, and on disk under a hash of everything they depend on.

Training, scoring and the ablations read features from here instead of running the encoder again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader

from corit.model.content_hash import code_digest, digest, item_digests
from corit.model.detector import CoRIT
from corit.model.head_files import encoder_hash, write_tensors
from corit.model.shared import contrast_products, set_regions
from gsnr_toolkit.data.base import REAL
from gsnr_toolkit.errors import ProbeError, ProbeWarning
from gsnr_toolkit.inputs.modes import in_eval_mode
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.support.atomic import make_folder
from gsnr_toolkit.support.progress import stage

if TYPE_CHECKING:
    from gsnr_toolkit.data.base import ForgeryDataset

__all__ = ["FeatureMaker", "find_shared_regions", "frozen_features"]

#: Images per file: an interrupted computation loses at most this many.
SHARD = 256

#: Number of real images that shared regions are found from.
CALIBRATION = 256

_FORMAT = "corit-features-1"


def frozen_features(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the head's input ``(N, feature_dim)`` from normalised images ``(N, 3, S, S)``."""
    whole: Any = model
    return whole.features(images) if isinstance(model, CoRIT) else whole.encoder(images)


class FeatureMaker:
    """Compute the features of a data set's items, or read them from disk.

    A file holds the features of :data:`SHARD` items. Its name is a hash of the encoder's weights, the configuration,
    the counterparts, the code, and the content of each item. So features are never read for something else, and a
    changed image, recipe or option gives new files beside the old ones. A broken file is computed again, with a
    warning.

    Args:
        model: CoRIT or a detector of the toolkit; its encoder must not change afterwards.
        folder: Folder of the files; None keeps nothing on disk.
        device: Device of the model.
        batch_size: Images per forward pass.
        num_workers: Processes that read images.

    Attributes:
        made: Number of items computed so far.
        found: Number of items read from disk so far.

    Raises:
        ProbeError: If the encoder is trainable, or the counterparts cannot be described for the hash.

    >>> from gsnr_toolkit.data.demo.dataset import open_demo
    >>> detector = CoRIT.from_encoder("clip-demo", num_regions=0)
    >>> FeatureMaker(detector)(open_demo("df", size=2)).shape
    torch.Size([2, 256])
    """

    def __init__(
        self,
        model: nn.Module,
        folder: str | Path | None = None,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        whole: Any = model
        if any(parameter.requires_grad for parameter in whole.encoder.parameters()):
            raise ProbeError(
                "expected a frozen encoder, whose features do not change, got one with trainable parameters; call "
                "set_tuning(model, 'head'), or train on images"
            )
        self.model, self.device = model.eval(), torch.device(device)
        self.folder = None if folder is None else Path(folder).expanduser()
        self._batch_size, self._workers = batch_size, num_workers
        self.made, self.found = 0, 0
        self._settings = None if folder is None else describe_model(model)

    def __call__(
        self, dataset: ForgeryDataset, view: int = 0, *, label: str | None = None, progress: bool = False
    ) -> Tensor:
        """Return the features of all items, ``(N, feature_dim)``, float32, on the CPU; ``view`` numbers the blend."""
        parts = []
        with stage(label or f"features of {dataset.name}", len(dataset), show=progress) as advance:
            for start in range(0, len(dataset), SHARD):
                rows = range(start, min(start + SHARD, len(dataset)))
                parts.append(self._shard(dataset, rows, view))
                advance(len(rows), f"{self.found} from disk" if self.found else "")
        return torch.cat(parts)

    def _shard(self, dataset: ForgeryDataset, rows: Sequence[int], view: int) -> Tensor:
        if self.folder is None:
            return self._compute(dataset, rows, view)
        key = digest(self._settings, item_digests(dataset, rows, view))
        path = self.folder / f"{key}.safetensors"
        known = read_features(path, key, len(rows))
        if known is not None:
            self.found += len(rows)
            return known
        made = self._compute(dataset, rows, view)
        write_features(path, key, made, {"model": self._settings, "data": dataset.name, "rows": [rows[0], rows[-1]]})
        return made

    @torch.no_grad()
    def _compute(self, dataset: ForgeryDataset, rows: Sequence[int], view: int) -> Tensor:
        loader = _loader(dataset, rows, view, self._batch_size, self._workers)
        parts = [frozen_features(self.model, images.to(self.device)).float().cpu() for images, _ in loader]
        self.made += len(rows)
        return torch.cat(parts)


def find_shared_regions(detector: CoRIT, dataset: ForgeryDataset, folder: str | Path | None = None) -> None:
    """Set the regions that all images share, from the first :data:`CALIBRATION` real images of a data set.

    Of self-blended pairs, the first view is used. The inner products are cached in ``folder`` like features. They
    depend neither on the number of regions nor on the threshold.
    """
    rows = np.flatnonzero(np.asarray(dataset.labels) == REAL)[:CALIBRATION].tolist()
    layer = int(detector.config.cgp_layer or 0)
    describe = getattr(detector.counterpart, "describe", None)
    about = {"encoder_sha256": encoder_hash(detector.encoder), "code": code_digest(), "layer": layer}
    keep = folder is not None and describe is not None
    key = digest({**about, "counterpart": describe()}, item_digests(dataset, rows)) if keep and describe else ""
    path = Path(folder or ".").expanduser() / f"{key}.safetensors"
    count = int(detector.far.shape[0])
    known = read_features(path, key, count) if keep else None
    if known is None:
        loader: Any = _loader(dataset, rows, 0, SHARD)
        known = contrast_products(detector, loader, layer, max_images=len(rows)).float()
        if keep:
            write_features(path, key, known, {**about, "data": dataset.name, "images": len(rows)})
    set_regions(detector, known.double())


class Places:
    """A data set read by ``(row, view)``; data sets without several blends of an image ignore the view."""

    def __init__(self, dataset: ForgeryDataset) -> None:
        self._dataset: Any = dataset
        self._views = hasattr(dataset, "__getitems__")

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, place: tuple[int, int]) -> Any:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[Any]:
        """Read several places."""
        if self._views:
            return self._dataset.__getitems__(list(places))
        return [self._dataset[row] for row, _ in places]


def _loader(
    dataset: ForgeryDataset, rows: Sequence[int], view: int, batch_size: int, num_workers: int = 0
) -> DataLoader[Any]:
    """Load rows of one view in order."""
    items: Any = Places(dataset)
    batches = [[(row, view) for row in rows[i : i + batch_size]] for i in range(0, len(rows), batch_size)]
    # without its own generator, a loader would draw its seed from the global one
    own = torch.Generator().manual_seed(0)
    return DataLoader(items, batch_sampler=batches, num_workers=num_workers, generator=own)


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Describe everything in a model that its features depend on, as plain values."""
    whole: Any = model
    described: dict[str, Any] = {
        "format": _FORMAT,
        "encoder_sha256": encoder_hash(whole.encoder),
        "code": code_digest(),
    }
    if not isinstance(model, CoRIT):
        return described
    described["config"] = {name: value for name, value in model.config.to_dict().items() if name != "encoder"}
    if model.shared is not None:
        described["shared"] = {name: value.tolist() for name, value in model.shared.state_dict().items()}
    if model.config.needs_counterparts:
        describe = getattr(model.counterpart, "describe", None)
        if describe is None:
            raise ProbeError(
                "expected counterparts with a method describe(), which cache keys are made from, got "
                f"{model.counterpart!r}; use corit.SelfBlendedCounterparts(), or no cache"
            )
        described["counterpart"] = describe()
    return described


def write_features(path: Path, key: str, features: Tensor, about: dict[str, Any]) -> None:
    """Write features ``(N, D)`` atomically, with their key, a checksum, and values for a human reader."""
    make_folder(path.parent)
    metadata = {"format": _FORMAT, "key": key, "sha256": _sum(features), "about": json.dumps(about, sort_keys=True)}
    write_tensors(path, {"features": features}, metadata)


def read_features(path: Path, key: str, count: int) -> Tensor | None:
    """Read ``count`` features of a key; None if the file does not exist, or, with a warning, if it does not match."""
    if not path.exists():
        return None
    found = _read_checked(path, key, count)
    if isinstance(found, Tensor):
        return found
    warnings.warn(f"expected cached features in {path}, but {found}; computing them again", ProbeWarning, stacklevel=3)
    return None


def _read_checked(path: Path, key: str, count: int) -> Tensor | str:
    """Return the features, or the reason why they cannot be used."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            features = file.get_tensor("features")
    except (SafetensorError, OSError) as error:
        return f"it cannot be read ({error})"
    if (metadata.get("format"), metadata.get("key")) != (_FORMAT, key):
        return f"it holds {metadata.get('format', 'no format')!r} of another key"
    if features.ndim != 2 or len(features) != count or metadata.get("sha256") != _sum(features):
        return "its content is not what was written"
    return features


def _sum(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().data).hexdigest()


@torch.no_grad()
def head_logits(head: nn.Module, features: Tensor, device: torch.device | str = "cpu") -> NDArray[np.float64]:
    """Compute the logits ``(N,)`` of features ``(N, D)`` with a linear head."""
    parts = [head(part.to(device)).reshape(-1).double().cpu() for part in features.split(4096)]
    return torch.cat(parts).numpy()


@torch.no_grad()
def image_logits(
    model: nn.Module,
    dataset: ForgeryDataset,
    device: torch.device | str = "cpu",
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    advance: Any = None,
) -> NDArray[np.float64]:
    """Compute the logits ``(N,)`` of a data set's images in eval mode; ``advance`` takes the number of images done."""
    parts = []
    with in_eval_mode(model), preserved_rng():
        for images, _ in _loader(dataset, range(len(dataset)), 0, batch_size, num_workers):
            parts.append(model(images.to(device)).reshape(len(images)).double().cpu())
            if advance is not None:
                advance(len(images))
    return torch.cat(parts).numpy()
