"""The C++ of this room: built once per machine by the compiler at hand, and loaded. Without one, torch does the work.

Nothing is built when the package is installed, so that it needs no compiler; the library is made where it is first of
use, in about a second, and kept in the user's cache folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("merge_samples.cpp")

SWITCH = "GSNR_TOOLKIT_NATIVE"
"""Environment variable; 0 leaves the work to torch."""

_VECTORS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}
"""Flags for what torch found the processor to have, not for the machine that compiles: folders are shared."""


class NotBuiltError(Exception):
    """Why there is no library."""


@dataclass(frozen=True)
class Tools:
    """What builds the library.

    Attributes:
        compiler: The command.
        flags: Of compiling.
        openmp: What to link for threads.
    """

    compiler: tuple[str, ...]
    flags: tuple[str, ...]
    openmp: tuple[str, ...]

    @classmethod
    def at_hand(cls) -> Tools:
        """Find them on this machine.

        Returns:
            The tools.

        Raises:
            NotBuiltError: If there is no compiler.
        """
        paths = (shutil.which(name) for name in ("g++", "c++", "clang++"))
        compiler = shlex.split(os.environ.get("CXX", "")) or [path for path in paths if path][:1]
        if not compiler:
            raise NotBuiltError("no C++ compiler was found: install g++, or name one by CXX")
        vectors = _VECTORS.get(torch.backends.cpu.get_cpu_capability(), ())
        return cls(tuple(compiler), ("-O3", "-std=c++17", "-fPIC", "-fopenmp", *vectors), _openmp())


def kernel() -> ctypes.CDLL | None:
    """Load the library, and build it first where that was not done yet.

    Returns:
        The library; None where there is none, for the reason that :func:`description` gives.
    """
    found = _library()
    return None if isinstance(found, NotBuiltError) else found


def description() -> str:
    """What sums up per-sample gradients on a CPU, for a report's provenance.

    Returns:
        ``"compiled"``, or ``"torch"`` with the reason.
    """
    found = _library()
    return f"torch ({found})" if isinstance(found, NotBuiltError) else "compiled"


@cache
def _library() -> ctypes.CDLL | NotBuiltError:
    try:
        return _loaded(_found_or_built())
    except NotBuiltError as reason:
        return reason


def _found_or_built() -> Path:
    if os.environ.get(SWITCH, "1") == "0":
        raise NotBuiltError(f"{SWITCH} is 0")
    if sys.platform != "linux":
        raise NotBuiltError("compiled on Linux alone")
    tools = Tools.at_hand()
    key = hashlib.sha256(SOURCE.read_bytes() + repr((tools, torch.__version__)).encode())
    folder = _folder()
    target = folder / f"merge_samples-{key.hexdigest()[:16]}.so"
    if not target.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _build(tools, target)
        except OSError as error:
            raise NotBuiltError(f"{folder} cannot be written: {error}") from error
    return target


def _folder() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsnr_toolkit"
    except RuntimeError as error:
        raise NotBuiltError(f"no place for it: {error}; set XDG_CACHE_HOME") from error


def _openmp() -> tuple[str, ...]:
    """The OpenMP library of torch: with another one, both would keep a thread on each core."""
    folder = Path(torch.__file__).parent / "lib"
    found = [path for name in ("libgomp", "libomp", "libiomp5") for path in sorted(folder.glob(f"{name}*.so*"))]
    return (str(found[0]),) if found else ("-fopenmp",)


def _build(tools: Tools, target: Path) -> None:
    """Build beside the target and put it there in one step, since other processes may be at the same."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made, built = Path(folder) / "made.o", Path(folder) / "built.so"
        _run([*tools.compiler, *tools.flags, "-c", str(SOURCE), "-o", str(made)])
        _run([*tools.compiler, "-shared", str(made), *tools.openmp, "-o", str(built)])
        built.replace(target)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuiltError(f"{command[0]} did not run: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise NotBuiltError(f"{command[0]} failed: {next((line for line in lines if 'error' in line), lines[-1])}")


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        found = ctypes.CDLL(str(path))
        for name in ("merge_float32", "merge_float64"):
            function = getattr(found, name)
            function.restype = ctypes.c_double
            number, pointer = ctypes.c_int64, ctypes.c_void_p
            function.argtypes = [pointer, number, number, number, pointer, pointer, number, number]
    except (OSError, AttributeError) as error:
        with suppress(OSError):
            path.unlink()  # damaged: the next process builds it anew
        raise NotBuiltError(f"{path} cannot be loaded: {error}") from error
    return found
