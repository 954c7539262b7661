"""Trained detectors as files: CoRIT or a baseline, how it was trained, and the hash of its encoder.

Training writes these files; scoring and prediction read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from corit.model.counterparts import SelfBlendedCounterparts
from corit.model.detector import CoRIT
from corit.model.head_files import encoder_hash, load_detector, read_tensors, save_detector, write_tensors
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.device import find_device
from gsnr_toolkit.inputs.tuning import set_tuning
from gsnr_toolkit.models.clip import Detector
from gsnr_toolkit.models.registry import build_model
from gsnr_toolkit.models.spec import InputSpec, input_spec
from gsnr_toolkit.models.weights_files import WeightsError
from gsnr_toolkit.support.arguments import NAME, PATH, check_arguments, optional
from gsnr_toolkit.support.atomic import make_folder
from gsnr_toolkit.training.checkpoint import load_model_state, model_state

__all__ = ["DEMO_FILE", "Trained", "load_trained", "save_trained"]

#: The demo detector that ships with the package; trained by ``python -m corit.training.train_demo``.
DEMO_FILE = Path(__file__).parents[1] / "weights_files" / "corit-demo.safetensors"

_BASELINE = "corit-baseline-1"


@dataclass(frozen=True)
class Trained:
    """A trained detector.

    Attributes:
        model: In eval mode; maps images ``(N, 3, S, S)`` to logits ``(N,)``, and makes counterparts itself.
        training: How it was trained, as plain values: the fields of :class:`corit.training.config.DetectorTraining`,
            ``selection``, ``step``, ``val_auc``, ``reference`` (mean contribution of each vector, see
            ``contributions.py``).
        path: Its file.
    """

    model: nn.Module
    training: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def spec(self) -> InputSpec:
        """Size and normalisation of the images it reads."""
        return input_spec(self.model)

    @property
    def is_demo(self) -> bool:
        """Whether it is the demo detector that ships with the package."""
        return self.path is not None and self.path.resolve() == DEMO_FILE.resolve()

    @property
    def has_regions(self) -> bool:
        """Whether it has regions to show."""
        return isinstance(self.model, CoRIT) and self.model.config.num_regions > 0

    @property
    def name(self) -> str:
        """Its name in tables."""
        if self.is_demo:
            return "corit-demo"
        return "detector" if self.path is None else f"{self.path.resolve().parent.name}/{self.path.stem}"

    @property
    def trained_on(self) -> str:
        """Its training data, in words."""
        if not self.training:
            return "unknown"
        what = "self-blended real images" if self.training["fakes"] == "sbi" else "real images and forgeries"
        return f"{what} of {self.training['data']}"


def save_trained(model: nn.Module, path: str | Path, training: Mapping[str, Any], pretrained: str = "") -> Path:
    """Write a trained detector: the head of a frozen encoder, or everything that was trained.

    Args:
        model: CoRIT, or a detector of the toolkit.
        path: A ``.safetensors`` file, written atomically.
        training: How it was trained.
        pretrained: Hash of the encoder before training, for a detector other than CoRIT.

    Returns:
        The path.
    """
    check_arguments(path=(path, PATH))
    path = Path(path)
    make_folder(path.parent)
    if isinstance(model, CoRIT):
        model.provenance = {**model.provenance, "training": dict(training)}
        return save_detector(model, path)
    whole: Any = model
    metadata = {
        "format": _BASELINE,
        "encoder": whole.name,
        "encoder_sha256": pretrained,
        "provenance": json.dumps({**whole.provenance, "training": dict(training)}, sort_keys=True, default=str),
    }
    return write_tensors(path, model_state(model), metadata)


def load_trained(
    path: str | Path = DEMO_FILE, *, encoder: Detector | None = None, weights: str | None = None, device: Any = "cpu"
) -> Trained:
    """Build the detector of a file; without a path, the demo detector.

    Args:
        path: A file of :func:`save_trained` or :func:`corit.save_detector`.
        encoder: The encoder; built by its name when None.
        weights: Weights to build it with; the encoder must have the file's hash.
        device: Device of the detector.

    Returns:
        The detector, in eval mode.

    Raises:
        WeightsError: If the file holds no detector, or belongs to another encoder.

    >>> load_trained().is_demo
    True
    """
    check_arguments(path=(path, PATH), weights=(weights, optional(NAME)))
    device = None if device is None else find_device(device)
    path = Path(path)
    state, metadata = read_tensors(path)
    provenance = json.loads(metadata.get("provenance", "{}"))
    training = provenance.get("training", {})
    known = weights or _local(provenance)
    model: nn.Module
    if metadata.get("format") == _BASELINE:
        model = _load_baseline(path, state, metadata, training, encoder, known)
    else:
        detector = load_detector(path, encoder=encoder, weights=None if encoder is not None else known)
        faces = training.get("counterpart_faces", "aligned")
        detector.counterpart = SelfBlendedCounterparts(faces, detector.mean, detector.std)
        model = detector
    return Trained(model.to(device).eval().requires_grad_(False), training, path)


def _local(provenance: Mapping[str, Any]) -> str | None:
    """Return the weights that the encoder was built with, unless they came from a file."""
    given = provenance.get("weights")
    return None if given in (None, "file", "shipped") else str(given)


def _load_baseline(
    path: Path,
    state: dict[str, Tensor],
    metadata: Mapping[str, str],
    training: Mapping[str, Any],
    encoder: Detector | None,
    weights: str | None,
) -> Detector:
    model: Any = encoder or build_model(metadata["encoder"], weights=weights, seed=training.get("seed", 0))
    came = encoder_hash(model.encoder)
    if came != metadata["encoder_sha256"]:
        raise WeightsError(
            f"expected the encoder that {path} was trained from, {metadata['encoder']!r} "
            f"(sha256 {metadata['encoder_sha256'][:12]}), got {model.name!r} (sha256 {came[:12]}); give its weights "
            "file (--encoder-weights PATH on the command line), or train a detector for this encoder"
        )
    tuning = {"probe": "head", "sbi": "full"}.get(training["method"], training["method"])
    set_tuning(model, tuning)
    try:
        load_model_state(model, state)
    except ProbeError as error:
        raise WeightsError(
            f"expected tensors in {path} that fit its encoder {model.name!r}, but {error}; train the detector again"
        ) from error
    return model
