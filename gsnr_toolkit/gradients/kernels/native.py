"""The C++ of this room: built once per machine by the compiler at hand, and loaded. Without one, torch does the work.

Nothing is built when the package is installed, so that it needs no compiler; the library is made where it is first of
use, in about two seconds, and kept in the user's cache folder.
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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

FOLDER = Path(__file__).with_name("cpp")

SWITCH = "GSNR_TOOLKIT_NATIVE"
"""Environment variable; 0 leaves the work to torch."""

_VECTORS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}
"""Flags for what torch found the processor to have, not for the machine that compiles: folders are shared."""

_NUMBER, _POINTER = ctypes.c_int64, ctypes.c_void_p

_SIGNATURES = {
    "merge_samples": [_POINTER, _POINTER, _NUMBER, _POINTER, _POINTER, _NUMBER, _NUMBER],
    "merge_products": [*[_POINTER] * 4, _NUMBER, _NUMBER, _POINTER, _POINTER, _NUMBER, _NUMBER, _POINTER],
}
"""Arguments of each source's functions, which return a float64 and are named by the source and their dtype."""

_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


class NotBuiltError(Exception):
    """Why there is no library."""


@dataclass(frozen=True)
class Tools:
    """What builds the library.

    Attributes:
        compiler: The command.
        flags: Of compiling.
        openmp: What to link for threads.
        sources: Names of what is built. Products need wide vectors to be faster than torch's.
    """

    compiler: tuple[str, ...]
    flags: tuple[str, ...]
    openmp: tuple[str, ...]
    sources: tuple[str, ...]

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
        flags = ("-O3", "-std=c++17", "-fPIC", "-ffp-contract=fast", *vectors)
        return cls(tuple(compiler), flags, _openmp(), tuple(_SIGNATURES) if vectors else ("merge_samples",))


def kernel() -> ctypes.CDLL | None:
    """Load the library, and build it first where that was not done yet.

    Returns:
        The library; None where there is none, for the reason that :func:`description` gives.
    """
    found = _library()
    return None if isinstance(found, NotBuiltError) else found


def function(name: str, dtype: torch.dtype) -> Callable[..., float] | None:
    """One of the library's functions.

    Args:
        name: Its source.
        dtype: Of the numbers.

    Returns:
        The function; None where it was not built.
    """
    library = kernel()
    return getattr(library, f"{name}_{_DTYPES[dtype]}", None) if library is not None and dtype in _DTYPES else None


def description() -> str:
    """What sums up per-sample gradients on a CPU, for a report's provenance.

    Returns:
        ``"compiled"``, or ``"torch"`` with the reason; what of it torch does where the processor lacks vectors.
    """
    found = _library()
    if isinstance(found, NotBuiltError):
        return f"torch ({found})"
    return "compiled" if hasattr(found, "merge_products_float32") else "compiled, products by torch"


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
    texts = b"".join(path.read_bytes() for path in sorted(FOLDER.iterdir()))
    key = hashlib.sha256(texts + repr((tools, torch.__version__)).encode())
    folder = _folder()
    target = folder / f"kernels-{key.hexdigest()[:16]}.so"
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
    sources = [str(FOLDER / f"{name}.cpp") for name in tools.sources]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / "built.so"
        _run([*tools.compiler, *tools.flags, "-shared", *sources, *tools.openmp, "-o", str(built)])
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
        for name in Tools.at_hand().sources:
            for dtype in _DTYPES.values():
                made = getattr(found, f"{name}_{dtype}")
                made.restype, made.argtypes = ctypes.c_double, _SIGNATURES[name]
    except (OSError, AttributeError) as error:
        with suppress(OSError):
            path.unlink()  # damaged: the next process builds it anew
        raise NotBuiltError(f"{path} cannot be loaded: {error}") from error
    return found
