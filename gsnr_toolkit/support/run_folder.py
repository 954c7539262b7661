"""Folders of runs: is there a finished one, and is it the one that was asked for?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.atomic import read_json

CONFIG, RESULT = "config.json", "result.json"
_MOST = 4


def differences(theirs: Any, ours: Mapping[str, Any]) -> str:
    """List the first settings that differ, for a message.

    Args:
        theirs: Settings found in a file, whatever they are.
        ours: Settings asked for.

    Returns:
        Text; empty where they are equal.

    >>> differences({"rho": 0.1, "seed": 0}, {"rho": 0.05, "seed": 0})
    'rho 0.1 there, 0.05 here'
    """
    known = theirs if isinstance(theirs, Mapping) else {}
    names = [*ours, *(name for name in known if name not in ours)]
    odd = [name for name in names if known.get(name) != ours.get(name)]
    listed = [f"{name} {known.get(name)!r} there, {ours.get(name)!r} here" for name in odd[:_MOST]]
    return "; ".join([*listed, *([f"and {len(odd) - _MOST} more"] if len(odd) > _MOST else [])])


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
