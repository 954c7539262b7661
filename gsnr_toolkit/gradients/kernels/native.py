"""Build and load the C++ kernels of this folder: once per machine, on first use, with any available C++ compiler.

Installing the package builds nothing, and so needs no compiler. The first use builds the library in about two seconds
and keeps it in the user's cache folder. Without a compiler, torch does the work.
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
"""Environment variable; the value 0 leaves the work to torch."""

_VECTORS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}
"""Compiler flags for the processor that torch detected. Not ``-march=native``: machines may share the cache."""

_NUMBER, _POINTER = ctypes.c_int64, ctypes.c_void_p

_SIGNATURES = {
    "merge_samples": [_POINTER, _POINTER, _NUMBER, _POINTER, _POINTER, _NUMBER, _NUMBER],
    "merge_products": [*[_POINTER] * 4, _NUMBER, _NUMBER, _POINTER, _POINTER, _NUMBER, _NUMBER, _POINTER],
}
"""Argument types by source. The source ``name`` holds one function ``name_<dtype>`` per dtype; it returns a float64."""

_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


class NotBuiltError(Exception):
    """The library cannot be built or loaded; the message says why."""


@dataclass(frozen=True)
class Tools:
    """How the library is built.

    Attributes:
        compiler: The command.
        flags: Compiler flags.
        openmp: What to link for threads.
        sources: Names of the sources. ``merge_products`` is faster than torch only with wide vectors.
    """

    compiler: tuple[str, ...]
    flags: tuple[str, ...]
    openmp: tuple[str, ...]
    sources: tuple[str, ...]

    @classmethod
    def of_this_machine(cls) -> Tools:
        """Find the compiler and the flags for this machine.

        Returns:
            The tools.

        Raises:
            NotBuiltError: If there is no compiler.
        """
        paths = (shutil.which(name) for name in ("g++", "c++", "clang++"))
        compiler = shlex.split(os.environ.get("CXX", "")) or [path for path in paths if path][:1]
        if not compiler:
            raise NotBuiltError("expected a C++ compiler, but found none; install g++ or set CXX")
        vectors = _VECTORS.get(torch.backends.cpu.get_cpu_capability(), ())
        flags = ("-O3", "-std=c++17", "-fPIC", "-ffp-contract=fast", *vectors)
        return cls(tuple(compiler), flags, _openmp(), tuple(_SIGNATURES) if vectors else ("merge_samples",))


def kernel() -> ctypes.CDLL | None:
    """Load the library, building it if necessary; None if it cannot be built (:func:`description` says why)."""
    found = _library()
    return None if isinstance(found, NotBuiltError) else found


def function(name: str, dtype: torch.dtype) -> Callable[..., float] | None:
    """Return one of the library's functions.

    Args:
        name: Its source.
        dtype: Type of the numbers.

    Returns:
        The function, or None if it was not built.
    """
    library = kernel()
    return getattr(library, f"{name}_{_DTYPES[dtype]}", None) if library is not None and dtype in _DTYPES else None


def description() -> str:
    """Describe what sums per-sample gradients on a CPU, for a report's provenance.

    Returns:
        ``"compiled"``; ``"compiled, products by torch"`` on a processor without wide vectors; or ``"torch"`` with the
        reason.
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
        raise NotBuiltError(f"expected {SWITCH} to be unset or 1, got 0; unset it to compile")
    if sys.platform != "linux":
        raise NotBuiltError(f"expected Linux, got {sys.platform}; run on Linux to compile")
    tools = Tools.of_this_machine()
    texts = b"".join(path.read_bytes() for path in sorted(FOLDER.iterdir()))
    key = hashlib.sha256(texts + repr((tools, torch.__version__)).encode())
    folder = _folder()
    target = folder / f"kernels-{key.hexdigest()[:16]}.so"
    if not target.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _build(tools, target)
        except OSError as error:
            raise NotBuiltError(
                f"expected to write to {folder}, but {error}; set XDG_CACHE_HOME to another folder"
            ) from error
    return target


def _folder() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsnr_toolkit"
    except RuntimeError as error:
        raise NotBuiltError(f"expected a cache folder, but {error}; set XDG_CACHE_HOME") from error


def _openmp() -> tuple[str, ...]:
    """Return torch's own OpenMP library: with a second one, both would keep a thread on each core."""
    folder = Path(torch.__file__).parent / "lib"
    found = [path for name in ("libgomp", "libomp", "libiomp5") for path in sorted(folder.glob(f"{name}*.so*"))]
    return (str(found[0]),) if found else ("-fopenmp",)


def _build(tools: Tools, target: Path) -> None:
    """Build in a scratch folder and move the result in one step, since other processes may build at the same time."""
    sources = [str(FOLDER / f"{name}.cpp") for name in tools.sources]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / "built.so"
        _run([*tools.compiler, *tools.flags, "-shared", *sources, *tools.openmp, "-o", str(built)])
        built.replace(target)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuiltError(f"expected {command[0]} to run, but {error}; set CXX to another compiler") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        reason = next((line for line in lines if "error" in line), lines[-1])
        raise NotBuiltError(f"expected {command[0]} to compile, got {reason}; set CXX to another compiler")


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        found = ctypes.CDLL(str(path))
        for name in Tools.of_this_machine().sources:
            for dtype in _DTYPES.values():
                made = getattr(found, f"{name}_{dtype}")
                made.restype, made.argtypes = ctypes.c_double, _SIGNATURES[name]
    except (OSError, AttributeError) as error:
        with suppress(OSError):
            path.unlink()  # damaged: the next process builds it again
        raise NotBuiltError(f"expected to load {path}, but {error}; start again to rebuild it") from error
    return found
