"""CoRIT's head as a file: weights, configuration, and the hash of the encoder that the head belongs to.

``trained.py`` builds on it: there, a detector comes with a record of its training, and may be a baseline.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from corit.model.config import CoRITConfig
from corit.model.detector import CoRIT
from gsnr_toolkit.models.clip import Detector
from gsnr_toolkit.models.weights_files import WeightsError
from gsnr_toolkit.support.arguments import PATH, check_arguments, instance
from gsnr_toolkit.support.atomic import atomic_file

__all__ = ["encoder_hash", "load_detector", "load_head", "read_tensors", "save_detector", "write_tensors"]

_FORMAT = "corit-1"
_SHARED = "shared."
_CORIT = instance(CoRIT, "a CoRIT", "build one with corit.CoRIT.from_encoder")


def encoder_hash(encoder: nn.Module) -> str:
    """Return the SHA-256 of an encoder's weights in hexadecimal, independent of the file they were read from.

    It is taken over names, shapes and values (as float32) of the parameters and buffers.

    >>> encoder_hash(nn.Identity())[:8]
    'e3b0c442'
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        value = tensor.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str]) -> Path:
    """Write tensors and metadata as safetensors, atomically; return the path."""
    whole = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    metadata = {**metadata, "tensors_sha256": _sum_of(whole)}
    # not safetensors' save_file, which creates files that only their owner may read
    with atomic_file(path) as stream:
        stream.write(save(whole, metadata=metadata))
    return path


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a detector's tensors by name, and its metadata, from a ``.safetensors`` file."""
    check_arguments(path=(path, PATH))
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"expected a detector's file, but {path} does not exist; check the path, or train a detector with corit "
            "train"
        )
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise WeightsError(
            f"expected {path} to be a detector written by corit train or save_detector, but it cannot be read as "
            f"safetensors ({error}); check the path"
        ) from error
    if metadata.get("tensors_sha256", _sum_of(state)) != _sum_of(state):
        raise WeightsError(
            f"expected the tensors in {path} as they were written, but their checksum differs, so the file is damaged; "
            "copy it again, or train the detector again"
        )
    return state, metadata


def _sum_of(state: Mapping[str, Tensor]) -> str:
    """Return a checksum of names, shapes and bytes of some tensors."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_detector(detector: CoRIT, path: str | Path) -> Path:
    """Write a detector's head, and what is needed to rebuild the rest.

    Args:
        detector: The detector.
        path: A ``.safetensors`` file, written atomically.

    Returns:
        The path.

    Raises:
        WeightsError: If parts of the encoder were trained, because the head alone would not restore this detector.
    """
    check_arguments(path=(path, PATH), detector=(detector, _CORIT))
    trained = sum(parameter.requires_grad for parameter in detector.encoder.parameters())
    if trained:
        raise WeightsError(
            f"expected a frozen encoder, got one with {trained} trainable tensors, which a file of the head does not "
            "hold; use torch.save(detector.state_dict(), path), or detector.encoder.requires_grad_(False) if they "
            "were never trained"
        )
    metadata = {
        "format": _FORMAT,
        "config": json.dumps(detector.config.to_dict(), sort_keys=True),
        "encoder": detector.config.encoder,
        "encoder_sha256": encoder_hash(detector.encoder),
        "provenance": json.dumps(detector.provenance, sort_keys=True, default=str),
    }
    shared = {} if detector.shared is None else detector.shared.state_dict(prefix=_SHARED)
    return write_tensors(Path(path), {**detector.head.state_dict(), **shared}, metadata)


def load_detector(
    path: str | Path, *, encoder: Detector | None = None, weights: str | None = None, **options: Any
) -> CoRIT:
    """Build the detector of a file.

    Args:
        path: A file of :func:`save_detector`.
        encoder: The encoder; built by its name when None.
        weights: Weights to build the encoder with, as in :func:`gsnr_toolkit.models.build_model`. The file does not
            say where they come from, but the encoder must have the file's hash.
        **options: ``counterpart`` of :meth:`corit.CoRIT.from_encoder`.

    Returns:
        The detector, in eval mode.

    Raises:
        WeightsError: If the file holds no head, or belongs to another encoder.
    """
    state, metadata = _read_head(path)
    config = CoRITConfig.from_dict(json.loads(metadata["config"]))
    fields = {name: value for name, value in config.to_dict().items() if name != "encoder"}
    detector = CoRIT.from_encoder(encoder or config.encoder, weights=weights, **fields, **options)
    _check_encoder(detector, metadata, path)
    return _loaded(detector, state)


def load_head(detector: CoRIT, path: str | Path) -> CoRIT:
    """Load a file's head into an existing detector.

    Args:
        detector: Changed in place.
        path: A file of :func:`save_detector`.

    Returns:
        The detector, in eval mode.

    Raises:
        WeightsError: If the file belongs to another encoder or another configuration.
    """
    check_arguments(detector=(detector, _CORIT))
    state, metadata = _read_head(path)
    _check_encoder(detector, metadata, path)
    written, own = json.loads(metadata["config"]), detector.config.to_dict()
    differing = [name for name in own if name != "encoder" and written.get(name) != own[name]]
    if differing:
        listed = ", ".join(f"{name} {written.get(name)!r} (here {own[name]!r})" for name in differing)
        raise WeightsError(
            f"expected the configuration that the head in {path} was trained with, got another: {listed}; use "
            "load_detector, which builds it from the file"
        )
    return _loaded(detector, state)


def _loaded(detector: CoRIT, state: dict[str, Tensor]) -> CoRIT:
    if detector.shared is not None:
        found = {name.removeprefix(_SHARED): value for name, value in state.items() if name.startswith(_SHARED)}
        detector.shared.load_state_dict(found)
    detector.head.load_state_dict({name: value for name, value in state.items() if not name.startswith(_SHARED)})
    return detector.eval()


def _read_head(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    state, metadata = read_tensors(path)
    if metadata.get("format") != _FORMAT:
        came = metadata.get("format", "none")
        raise WeightsError(f"expected a head of format {_FORMAT!r} in {path}, got {came!r}; save it with save_detector")
    return state, metadata


def _check_encoder(detector: CoRIT, metadata: dict[str, str], path: str | Path) -> None:
    came = encoder_hash(detector.encoder)
    if came == metadata["encoder_sha256"]:
        return
    origin = json.loads(metadata["provenance"])
    raise WeightsError(
        f"expected the encoder that the head in {path} was trained on, {metadata['encoder']!r} with weights "
        f"{origin.get('weights', 'unknown')!r} (sha256 {metadata['encoder_sha256'][:12]}), got "
        f"{detector.config.encoder!r} with weights {detector.provenance.get('weights', 'unknown')!r} "
        f"(sha256 {came[:12]}); build it with those weights (weights=...), or train a head for this encoder"
    )
