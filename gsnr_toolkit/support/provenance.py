"""Record where a number comes from: versions, machine, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("gsnr-toolkit", "torch", "open_clip_torch", "numpy", "scipy", "pandas")


def environment() -> dict[str, Any]:
    """Return the versions of the packages, the machine, the time and the caller's git commit, as plain values."""
    import torch

    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "git_commit": git_commit(),
    }


def processor() -> str:
    """Return the processor, because floating-point sums differ between models in the last digits.

    Returns:
        Its name and number of cores.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or 'unknown'}, {os.cpu_count()} cores"


def command_line() -> list[str]:
    """Return the command that started this process, without machine-specific folders.

    Returns:
        ``["python", "-m", module, ...]`` for a module, else the script's name and its arguments.
    """
    program, *arguments = sys.argv or [""]
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    if module is not None:
        return ["python", "-m", module.name.removesuffix(".__main__"), *arguments]
    return [Path(program).name, *arguments]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def git_commit() -> str | None:
    """Return the commit of the git repository of the current directory.

    Returns:
        The hash, with ``+changes`` if tracked files differ from it; None outside a repository.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
