"""Write files atomically: a reader sees the old content or the new, never a part."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from gsnr_toolkit.errors import ProbeError, WriteError

_PARTIAL = ".partial"
_SPELLED = ("nan", "inf", "-inf")


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces ``path`` when the block ends without an error.

    The content is flushed to disk before the rename. Even after a power cut, the path holds the old content or the new.

    Args:
        path: The final file; its folder must exist.

    Yields:
        A binary stream.

    Raises:
        WriteError: If the file cannot be written.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_file(Path(folder) / "a") as stream:
    ...         _ = stream.write(b"whole")
    ...     (Path(folder) / "a").read_bytes()
    b'whole'
    """
    outer = sys.exc_info()[1]  # the caller may be handling an error, which is none of this file
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL)
    except OSError as error:
        raise WriteError(path, error) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp lets only the owner read
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        cause = _cause_of(error, outer) if isinstance(error, Exception) else None  # Ctrl-C stays Ctrl-C
        if cause is None:
            raise
        raise WriteError(path, cause) from error


def _cause_of(error: BaseException | None, outer: BaseException | None) -> OSError | None:
    """Find the system's error behind one of the block, such as torch.save's own; ``outer`` was there before it."""
    while error is not None and error is not outer:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder; no other process may be writing there."""
    for path in folder.glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create a folder, unless it exists.

    Args:
        folder: The folder; missing parents are created too.

    Raises:
        WriteError: If it cannot be created.
        ProbeError: If it is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ProbeError(f"expected a folder, got the file {folder}; choose another place") from error
    except OSError as error:
        raise WriteError(folder, error) from error


def check_folder(folder: Path | None) -> None:
    """Create a folder, if one is given, and check that files can be written into it, before any work begins.

    Args:
        folder: The folder; None is no folder.

    Raises:
        WriteError: If it cannot be created or written to.
    """
    if folder is None:
        return
    make_folder(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise WriteError(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_file(path) as stream:
        stream.write(text.encode("utf8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; non-finite numbers are written as text by :func:`spelled`.

    Args:
        path: The file.
        value: Plain values.
    """
    write_text(path, json.dumps(spelled(value), indent=2, default=str, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a file of :func:`write_json`.

    Args:
        path: The file.

    Returns:
        Its values.

    Raises:
        OSError: If it cannot be read.
        ProbeError: If it is no JSON, such as a part of it.
    """
    try:
        return unspelled(json.loads(path.read_text(encoding="utf8")))
    except ValueError as error:  # no JSON, or no text
        raise ProbeError(
            f"expected JSON in {path}, but it cannot be read ({error}); restore the file, or delete it"
        ) from error


def spelled(value: Any) -> Any:
    """Replace non-finite numbers by the strings ``"nan"``, ``"inf"``, ``"-inf"``, which are valid JSON.

    Args:
        value: Plain values, nested.

    Returns:
        The same nesting.

    >>> spelled({"a": [math.inf, 1.0]})
    {'a': ['inf', 1.0]}
    """
    return each_leaf(value, lambda item: str(item) if isinstance(item, float) and not math.isfinite(item) else item)


def unspelled(value: Any) -> Any:
    """Restore the numbers that :func:`spelled` replaced.

    Args:
        value: Plain values, nested.

    Returns:
        The same nesting.

    >>> unspelled({"a": ["inf", 1.0]})
    {'a': [inf, 1.0]}
    """
    return each_leaf(value, lambda item: float(item) if item in _SPELLED else item)


def each_leaf(value: Any, change: Callable[[Any], Any]) -> Any:
    """Apply a function to every leaf of nested dicts, lists and tuples; tuples become lists.

    Args:
        value: Plain values, nested.
        change: Function of a leaf.

    Returns:
        The same nesting.
    """
    if isinstance(value, dict):
        return {key: each_leaf(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [each_leaf(item, change) for item in value]
    return change(value)
