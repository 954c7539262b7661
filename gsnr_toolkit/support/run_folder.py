"""Folders of runs: read a finished run, and refuse one made with other settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.atomic import read_json

CONFIG, RESULT = "config.json", "result.json"
_MOST = 4


def differences(theirs: Any, ours: Mapping[str, Any]) -> str:
    """List the first few settings that differ, for a message.

    Args:
        theirs: Settings from a file, possibly no settings at all.
        ours: Requested settings.

    Returns:
        Text; empty if they are equal.

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
        settings: Requested settings, as plain values.
        noun: Noun for a run in messages, such as ``"run"``.

    Returns:
        The results; None if the folder is empty or the run is unfinished.

    Raises:
        ProbeError: If the folder holds a run with other settings, or other files.
    """
    try:
        # a killed process may leave a lock, and a hidden temporary file of atomic_file
        if not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir()):
            return None
    except OSError as error:
        raise ProbeError(
            f"expected a folder for a {noun}, but {folder} cannot be read as one ({error.strerror or error}); choose "
            "another folder"
        ) from error
    try:
        theirs = read_json(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise ProbeError(
            f"expected {folder} to be empty or to hold a {noun}, but its {CONFIG} cannot be read; choose another folder"
        ) from error
    if theirs != settings:
        raise ProbeError(
            f"expected {folder} to be empty or to hold a {noun} with these settings, but it holds a {noun} with other "
            f"settings ({differences(theirs, settings)}); choose another folder, or delete that one"
        )
    return _read_result(folder / RESULT, noun) if (folder / RESULT).exists() else None


def _read_result(path: Path, noun: str) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        found = error.__cause__ or error  # without a second "expected ..., but"
    if not isinstance(found, dict):
        reason = found if isinstance(found, BaseException) else f"it holds {type(found).__name__}"
        raise ProbeError(
            f"expected {path} to hold the results of a {noun}, but it cannot be read ({reason}); delete that file: the "
            f"same call then makes the {noun} again"
        )
    return found
