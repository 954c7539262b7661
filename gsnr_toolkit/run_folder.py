"""Folders of runs: is there a finished one, and is it the one that was asked for?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsnr_toolkit.atomic import read_json
from gsnr_toolkit.differences import differences
from gsnr_toolkit.errors import ProbeError

CONFIG, RESULT = "config.json", "result.json"


def read_finished(folder: Path, settings: dict[str, Any], noun: str) -> dict[str, Any] | None:
    """Read the results of a run from its folder.

    Args:
        folder: With ``config.json`` and, once the run is finished, ``result.json``.
        settings: What was asked for, as plain values.
        noun: What a run is called in messages, such as ``"run"``.

    Returns:
        The results; None if there is no run yet, or an unfinished one.

    Raises:
        ProbeError: If the folder holds a run of other settings, or files of something else.
    """
    # a hidden file is what a kill left of a write
    if not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir()):
        return None
    try:
        theirs = read_json(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise ProbeError(
            f"expected {folder} to be empty or to hold a {noun}, but its {CONFIG} cannot be read; choose another folder"
        ) from error
    if theirs != settings:
        raise ProbeError(
            f"{folder} holds a {noun} with other settings ({differences(theirs, settings)}); choose another folder, or "
            "delete that one"
        )
    return read_json(folder / RESULT) if (folder / RESULT).exists() else None
