"""Keep the frozen part of the encoder out of a detector's ``state_dict``, so that checkpoints stay small."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["drop_frozen", "keep_frozen"]


def _frozen(detector: nn.Module) -> dict[str, Tensor]:
    """Return the encoder's state without its trainable parameters."""
    encoder: Any = detector.encoder
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    return {f"encoder.{name}": value for name, value in encoder.state_dict().items() if name not in trained}


def drop_frozen(detector: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Remove the frozen encoder from a state, in place; a hook after ``state_dict``."""
    for name in _frozen(detector):
        state.pop(prefix + name, None)


def keep_frozen(detector: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Add the detector's own frozen encoder to a state, in place; a hook before ``load_state_dict``."""
    # filled in from the detector itself, so that a strict load finds every tensor
    for name, value in _frozen(detector).items():
        state.setdefault(prefix + name, value)
