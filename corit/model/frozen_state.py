"""What a detector's ``state_dict`` leaves out: the frozen part of its encoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["drop_frozen", "keep_frozen"]


def _frozen(detector: nn.Module) -> dict[str, Tensor]:
    """The encoder's state, without what is trained."""
    encoder: Any = detector.encoder
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    return {f"encoder.{name}": value for name, value in encoder.state_dict().items() if name not in trained}


def drop_frozen(detector: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Take the frozen encoder out of a state; a hook after ``state_dict``.

    Args:
        detector: Has an ``encoder``.
        state: Changed in place.
        prefix: Of the detector's names in it.
    """
    for name in _frozen(detector):
        state.pop(prefix + name, None)


def keep_frozen(detector: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Put the detector's own frozen encoder into a state without one; a hook before ``load_state_dict``.

    Args:
        detector: Has an ``encoder``.
        state: Changed in place.
        prefix: Of the detector's names in it.
    """
    # a state without the encoder is complete: the encoder stays as it is
    for name, value in _frozen(detector).items():
        state.setdefault(prefix + name, value)
