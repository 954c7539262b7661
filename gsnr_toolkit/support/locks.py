"""One writer at a time: a lock on a folder, which the operating system releases however its holder ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from gsnr_toolkit.errors import ProbeError, WriteError
from gsnr_toolkit.support.atomic import make_folder

__all__ = ["is_locked", "locked", "wait_until_free"]

#: The lock of a folder. Hidden, so that a folder with nothing else counts as empty.
LOCK = ".lock"

_PAUSE = 0.05
_PATIENCE = 0.2

#: Descriptors of this process's lock files, and whether it holds the lock already or still tries to get it.
_HELD: dict[int, bool] = {}


def _close_in_child() -> None:
    """Close a forked child's copies of the locks, with which they would outlive the process that took them."""
    while _HELD:
        with suppress(OSError):
            os.close(_HELD.popitem()[0])


if hasattr(os, "register_at_fork"):  # missing on Windows, which has no fork
    os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def locked(folder: Path, name: str = LOCK, *, keep: bool = False) -> Iterator[None]:
    """Lock a folder for this process; create it if missing, and remove it again if it stays empty.

    Args:
        folder: The folder.
        name: Name of the lock file.
        keep: Leave the lock file there at the end.

    Yields:
        Nothing.

    Raises:
        ProbeError: If another process, or this one, holds the lock.
        WriteError: If the folder cannot be written.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    path = folder / name
    try:
        descriptor = _patiently_locked(path)
    except OSError as error:
        raise WriteError(path, error) from error
    if descriptor is None:
        _refuse(path)
    owner = os.getpid()
    try:
        with suppress(OSError):  # on a full disk the lock holds all the same, without the name of its holder
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {owner}".encode())  # no buffer, which closing would write once more
        try:
            yield
        finally:
            if os.getpid() == owner:  # a forked child that comes here holds no lock
                try:
                    if not keep:
                        path.unlink(missing_ok=True)  # while it is locked, so that nobody else's is removed
                finally:
                    _close(descriptor)
    finally:
        for each in missing:
            with suppress(OSError):  # not empty
                each.rmdir()


def is_locked(folder: Path, name: str = LOCK) -> bool:
    """Return whether a process holds the lock of a folder now."""
    try:
        with open(folder / name, encoding="utf8") as stream:
            return not _try_lock(stream.fileno(), shared=True)  # which keeps no other look out
    except OSError:
        return False


def wait_until_free(folder: Path, seconds: float) -> None:
    """Wait for the process that holds a folder's lock to end, at most so many seconds."""
    deadline = time.monotonic() + seconds
    while is_locked(folder) and time.monotonic() < deadline:
        time.sleep(_PAUSE)


def _patiently_locked(path: Path) -> int | None:
    """Try for a moment: the lock may be held by a mere look of :func:`is_locked`, or by a run that is ending."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        patient = time.monotonic() < deadline
        try:
            descriptor = _opened_and_locked(path)
        except FileNotFoundError:  # a run that ended took its empty folder along
            if not patient:
                raise
            make_folder(path.parent)
            descriptor = None
        if descriptor is not None or not patient:
            return descriptor
        time.sleep(_PAUSE)


def _opened_and_locked(path: Path) -> int | None:
    """Open and lock a file, and return its descriptor; None if somebody else holds the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        _HELD[descriptor] = False
        if not _try_lock(descriptor):
            _close(descriptor)
            return None
        # an earlier holder may have removed the file between the two calls: that lock would keep nobody out
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                _HELD[descriptor] = True
                return descriptor
        _close(descriptor)


def _close(descriptor: int) -> None:
    _HELD.pop(descriptor, None)  # first: another thread may get the number as soon as it is free
    os.close(descriptor)


def _refuse(path: Path) -> NoReturn:
    if _is_ours(path):
        raise ProbeError(
            f"expected no other run on {path.parent}, but this process ({os.getpid()}) is working on it already; end "
            "that run first, or choose another folder (--out)"
        )
    raise ProbeError(
        f"expected no other process on {path.parent}, but another process ({_holder(path)}) is working on it; wait for "
        "it to end, or choose another folder (--out)"
    )


def _is_ours(path: Path) -> bool:
    """Return whether this process holds the lock, under whatever name of the folder."""
    with suppress(OSError):
        found = os.stat(path)
        for descriptor, held in tuple(_HELD.items()):
            with suppress(OSError):  # closed by another thread meanwhile
                if held and os.path.samestat(os.fstat(descriptor), found):
                    return True
    return False


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf8").strip() or "unknown"
    return "unknown"


def _try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file; return True also if the system or the file system has no locks."""
    try:
        import fcntl  # missing on Windows
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
