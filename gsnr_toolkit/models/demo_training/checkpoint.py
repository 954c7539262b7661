"""Checkpoints of the pretraining run, and export of the weights that ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from safetensors.torch import save

from gsnr_toolkit.support.atomic import atomic_file


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically: an interruption leaves the old or the new file, never a partial one.

    Args:
        path: File to write.
        state: Anything that :func:`torch.save` accepts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        torch.save(state, stream)


def load_checkpoint(path: Path, options: dict[str, Any]) -> dict[str, Any] | None:
    """Read a checkpoint of a run with the same options.

    Args:
        path: File to read.
        options: Options of the current run.

    Returns:
        The state, or None if the file does not exist.

    Raises:
        ValueError: If the checkpoint is that of a run with other options.
    """
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state["options"] != options:
        raise ValueError(
            f"expected a checkpoint of a run with {options}, but {path} was made with {state['options']}; "
            "delete it or repeat its options"
        )
    return state


def export_weights(model: CLIP, path: Path, metadata: dict[str, str]) -> None:
    """Write the model's full state dictionary as float16 safetensors, atomically.

    Args:
        model: The model.
        path: File to write.
        metadata: Text entries for the header of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_file(path) as stream:
        stream.write(save(tensors, metadata={"format": "pt", **metadata}))
