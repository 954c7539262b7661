"""Trained detectors as files: what was trained, how, and the hash of the one encoder that it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corit.model.counterparts import SelfBlendedCounterparts
from corit.model.detector import CoRIT
from corit.model.head_files import encoder_hash, load_detector, save_detector
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.tuning import set_tuning
from gsnr_toolkit.models.clip import Detector
from gsnr_toolkit.models.registry import build_model
from gsnr_toolkit.models.spec import InputSpec, input_spec
from gsnr_toolkit.models.weights_files import WeightsError
from gsnr_toolkit.support.atomic import atomic_file
from gsnr_toolkit.training.checkpoint import load_model_state, model_state

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DEMO_FILE", "Trained", "load_trained", "save_trained"]

#: The detector that ships with the package, to try the commands with; trained by ``python -m corit.training.train_demo``.
DEMO_FILE = Path(__file__).parents[1] / "weights_files" / "corit-demo.safetensors"

_BASELINE = "corit-baseline-1"


@dataclass(frozen=True)
class Trained:
    """A trained detector.

    Attributes:
        model: In eval mode; images ``(N, 3, S, S)`` to logits ``(N,)``, counterparts included.
        training: How it was trained, plain values: the fields of :class:`corit.training.config.DetectorTraining`,
            ``selection``, ``step``, ``val_auc``, ``reference`` (mean contribution of each vector, see ``evidence.py``).
        path: Where it came from.
    """

    model: nn.Module
    training: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def spec(self) -> InputSpec:
        """What images it wants."""
        return input_spec(self.model)

    @property
    def is_demo(self) -> bool:
        """Whether it is the detector that ships with the package."""
        return self.path is not None and self.path.resolve() == DEMO_FILE.resolve()

    @property
    def has_regions(self) -> bool:
        """Whether it can show regions."""
        return isinstance(self.model, CoRIT) and self.model.config.num_regions > 0

    @property
    def name(self) -> str:
        """What a table calls it."""
        if self.is_demo:
            return "corit-demo"
        return "detector" if self.path is None else f"{self.path.resolve().parent.name}/{self.path.stem}"

    @property
    def trained_on(self) -> str:
        """What it was trained on, in words."""
        if not self.training:
            return "unknown"
        what = "self-blended real images" if self.training["fakes"] == "sbi" else "real images and forgeries"
        return f"{what} of {self.training['data']}"


def save_trained(model: nn.Module, path: str | Path, training: Mapping[str, Any], pretrained: str = "") -> Path:
    """Write a trained detector: the head of a frozen encoder, or all that was trained.

    Args:
        model: CoRIT, or a detector of the toolkit.
        path: A ``.safetensors`` file; written whole or not at all.
        training: How it was trained.
        pretrained: Hash of the encoder before training, for a detector that is not CoRIT.

    Returns:
        The path.
    """
    from safetensors.torch import save

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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
    state = {name: value.cpu().contiguous() for name, value in model_state(model).items()}
    with atomic_file(path) as stream:
        stream.write(save(state, metadata=metadata))
    return path


def load_trained(
    path: str | Path = DEMO_FILE, *, encoder: Detector | None = None, weights: str | None = None, device: Any = "cpu"
) -> Trained:
    """Build the detector of a file; without a path, the one that ships as a demo.

    Args:
        path: What :func:`save_trained` or :func:`corit.save_detector` wrote.
        encoder: The encoder; built by its name when None.
        weights: For building it; the result must have the file's hash.
        device: Where to.

    Returns:
        The detector, in eval mode.

    Raises:
        WeightsError: If it is no such file, or belongs to another encoder.

    >>> load_trained().is_demo
    True
    """
    path = Path(path)
    metadata = read_metadata(path)
    provenance = json.loads(metadata.get("provenance", "{}"))
    training = provenance.get("training", {})
    known = weights or _local(provenance)
    model: nn.Module
    if metadata.get("format") == _BASELINE:
        model = _load_baseline(path, metadata, training, encoder, known)
    else:
        detector = load_detector(path, encoder=encoder, weights=None if encoder is not None else known)
        faces = training.get("counterpart_faces", "aligned")
        detector.counterpart = SelfBlendedCounterparts(faces, detector.mean, detector.std)
        model = detector
    return Trained(model.to(device).eval().requires_grad_(False), training, path)


def read_metadata(path: Path) -> dict[str, str]:
    """Read what a file says of itself.

    Args:
        path: A ``.safetensors`` file.

    Returns:
        Its metadata.

    Raises:
        WeightsError: If it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"the file {path} does not exist: check the path, or train a detector with corit train")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise WeightsError(
            f"expected {path} to be a detector written by corit train, but it cannot be read as safetensors ({error})"
        ) from error


def _local(provenance: Mapping[str, Any]) -> str | None:
    """The weights that the encoder was built with, where they were no file."""
    given = provenance.get("weights")
    return None if given in (None, "file", "shipped") else str(given)


def _load_baseline(
    path: Path, metadata: Mapping[str, str], training: Mapping[str, Any], encoder: Detector | None, weights: str | None
) -> Detector:
    from safetensors.torch import load_file

    model: Any = encoder or build_model(metadata["encoder"], weights=weights, seed=training.get("seed", 0))
    came = encoder_hash(model.encoder)
    if came != metadata["encoder_sha256"]:
        raise WeightsError(
            f"expected the encoder that {path} was trained from, {metadata['encoder']!r} "
            f"(sha256 {metadata['encoder_sha256'][:12]}), got {model.name!r} (sha256 {came[:12]}); give its weights "
            "file (--encoder-weights PATH on the command line), or train a detector for this encoder"
        )
    state = load_file(path)
    tuning = {"probe": "head", "sbi": "full"}.get(training["method"], training["method"])
    set_tuning(model, tuning)
    try:
        load_model_state(model, state)
    except ProbeError as error:
        raise WeightsError(f"{path} does not fit its own encoder: {error}") from error
    return model
