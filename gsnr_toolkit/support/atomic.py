"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_SPELLED = ("nan", "inf", "-inf")


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write that takes the place of ``path`` when the block ends without an error.

    The content is on the disk before the name is: also after a power cut the path holds the old content or the new.

    Args:
        path: Where the content is to be in the end; its folder must exist.

    Yields:
        A binary stream.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_file(Path(folder) / "a") as stream:
    ...         _ = stream.write(b"whole")
    ...     (Path(folder) / "a").read_bytes()
    b'whole'
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8.

    Args:
        path: Where to.
        text: Its content.
    """
    with atomic_file(path) as stream:
        stream.write(text.encode("utf8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; numbers that JSON cannot hold stand as :func:`spelled`.

    Args:
        path: Where to.
        value: Plain values.
    """
    write_text(path, json.dumps(spelled(value), indent=2, default=str, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read what :func:`write_json` wrote.

    Args:
        path: Where from.

    Returns:
        The value.
    """
    return unspelled(json.loads(path.read_text(encoding="utf8")))


def spelled(value: Any) -> Any:
    """Numbers that are not finite as the strings ``"nan"``, ``"inf"``, ``"-inf"``: valid JSON, and nothing is lost.

    Args:
        value: Plain values, nested.

    Returns:
        The same nesting.

    >>> spelled({"a": [math.inf, 1.0]})
    {'a': ['inf', 1.0]}
    """
    return each_leaf(value, lambda item: str(item) if isinstance(item, float) and not math.isfinite(item) else item)


def unspelled(value: Any) -> Any:
    """Numbers in place of what :func:`spelled` wrote for them.

    Args:
        value: Plain values, nested.

    Returns:
        The same nesting.

    >>> unspelled({"a": ["inf", 1.0]})
    {'a': [inf, 1.0]}
    """
    return each_leaf(value, lambda item: float(item) if item in _SPELLED else item)


def each_leaf(value: Any, change: Callable[[Any], Any]) -> Any:
    """Change every leaf of nested dicts, lists and tuples; tuples become lists.

    Args:
        value: Plain values, nested.
        change: What becomes of a leaf.

    Returns:
        The same nesting.
    """
    if isinstance(value, dict):
        return {key: each_leaf(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [each_leaf(item, change) for item in value]
    return change(value)
