"""Heads as files: the head's weights, the configuration, and the hash of the one encoder that they belong to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from corit.model.config import CoRITConfig
from corit.model.detector import CoRIT
from gsnr_toolkit.models.clip import Detector
from gsnr_toolkit.models.weights_files import WeightsError
from gsnr_toolkit.support.atomic import atomic_file

__all__ = ["encoder_hash", "load_detector", "load_head", "save_detector"]

_FORMAT = "corit-1"
_SHARED = "shared."


def encoder_hash(encoder: nn.Module) -> str:
    """Hash an encoder's weights, in whatever file they came.

    Args:
        encoder: Any module.

    Returns:
        SHA-256 over names, shapes and values (as float32) of its parameters and buffers, in hexadecimal.

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


def save_detector(detector: CoRIT, path: str | Path) -> Path:
    """Write a detector's head, with what is needed to build the rest again.

    Args:
        detector: The detector.
        path: A ``.safetensors`` file; written whole or not at all.

    Returns:
        The path.

    Raises:
        WeightsError: If parts of the encoder were trained: a head alone would not be this detector.
    """
    from safetensors.torch import save

    path = Path(path)
    trained = sum(parameter.requires_grad for parameter in detector.encoder.parameters())
    if trained:
        raise WeightsError(
            f"expected a frozen encoder, got one with {trained} trainable tensors, which a file of the head would not "
            "hold; use torch.save(detector.state_dict(), path), or detector.encoder.requires_grad_(False) if they "
            "were never trained"
        )
    state = {name: value.detach().cpu().contiguous() for name, value in _parts(detector).items()}
    metadata = {
        "format": _FORMAT,
        "config": json.dumps(detector.config.to_dict(), sort_keys=True),
        "encoder": detector.config.encoder,
        "encoder_sha256": encoder_hash(detector.encoder),
        "provenance": json.dumps(detector.provenance, sort_keys=True, default=str),
    }
    # not save_file, which leaves a file that its owner alone may read
    with atomic_file(path) as stream:
        stream.write(save(state, metadata=metadata))
    return path


def load_detector(
    path: str | Path, *, encoder: Detector | None = None, weights: str | None = None, **options: Any
) -> CoRIT:
    """Build the detector of a file.

    Args:
        path: What :func:`save_detector` wrote.
        encoder: The encoder; built by its name when None.
        weights: For building it, as in :func:`gsnr_toolkit.models.build_model`; the origin is not taken from the file,
            but the result must have the file's hash.
        **options: ``counterpart`` of :meth:`corit.CoRIT.from_encoder`.

    Returns:
        The detector, in eval mode.

    Raises:
        WeightsError: If it is no such file, or belongs to another encoder.
    """
    state, metadata = _read(path)
    config = CoRITConfig.from_dict(json.loads(metadata["config"]))
    fields = {name: value for name, value in config.to_dict().items() if name != "encoder"}
    detector = CoRIT.from_encoder(encoder or config.encoder, weights=weights, **fields, **options)
    _check_encoder(detector, metadata, path)
    return _loaded(detector, state)


def load_head(detector: CoRIT, path: str | Path) -> CoRIT:
    """Load a file's head into a detector that exists.

    Args:
        detector: Changed in place.
        path: What :func:`save_detector` wrote.

    Returns:
        The detector, in eval mode.

    Raises:
        WeightsError: If the file belongs to another encoder or another configuration.
    """
    state, metadata = _read(path)
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


def _parts(detector: CoRIT) -> dict[str, Tensor]:
    """What a file holds: the head, and the regions that all images share."""
    shared = {} if detector.shared is None else detector.shared.state_dict(prefix=_SHARED)
    return {**detector.head.state_dict(), **shared}


def _loaded(detector: CoRIT, state: dict[str, Tensor]) -> CoRIT:
    if detector.shared is not None:
        found = {name.removeprefix(_SHARED): value for name, value in state.items() if name.startswith(_SHARED)}
        detector.shared.load_state_dict(found)
    detector.head.load_state_dict({name: value for name, value in state.items() if not name.startswith(_SHARED)})
    return detector.eval()


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"the file {path} does not exist: check the path, or train a head and save it")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise WeightsError(f"cannot read {path} as safetensors ({error}): save heads with save_detector") from error
    if metadata.get("format") != _FORMAT:
        came = metadata.get("format", "none")
        raise WeightsError(f"expected a head of format {_FORMAT!r} in {path}, got {came!r}: save it with save_detector")
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
