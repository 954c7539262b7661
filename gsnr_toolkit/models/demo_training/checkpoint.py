"""Atomic checkpoints of the demo model's pretraining, and the file that ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gsnr_toolkit.support.atomic import atomic_file

if TYPE_CHECKING:
    from open_clip.model import CLIP


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that an interruption leaves the old or the new one, never half of one.

    Args:
        path: Where to.
        state: Anything :func:`torch.save` takes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        torch.save(state, stream)


def load_checkpoint(path: Path, options: dict[str, Any]) -> dict[str, Any] | None:
    """Read a checkpoint of a run with the same options.

    Args:
        path: Where from.
        options: Options of the present run.

    Returns:
        The state, or None if there is no checkpoint.

    Raises:
        ValueError: If the checkpoint belongs to a run with other options.
    """
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state["options"] != options:
        raise ValueError(
            f"the checkpoint {path} was made with {state['options']}, this run has {options}: "
            "delete it or repeat its options"
        )
    return state


def export_weights(model: CLIP, path: Path, metadata: dict[str, str]) -> None:
    """Write the model's full state dictionary as float16 safetensors, atomically.

    Args:
        model: The model.
        path: Where to.
        metadata: Text entries of the file's header.
    """
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_file(path) as stream:
        stream.write(save(tensors, metadata={"format": "pt", **metadata}))
