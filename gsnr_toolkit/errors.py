"""The errors of a probe. Every message says what was expected, what came instead, and what to do."""

from __future__ import annotations

import errno
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a full quota, and a file larger than allowed."""


class ProbeError(ValueError):
    """The model, loader or loss cannot be probed as given; the message says what to change."""


class NonFiniteError(ProbeError):
    """A loss or a gradient is NaN or infinite; the message names the first batch and parameter."""


class NonDeterministicError(ProbeError):
    """The same batch, evaluated twice from the same random state, gave different losses."""


class MixedSamplesError(ProbeError):
    """A sample's loss depends on other samples of its batch, so that the sample has no gradient of its own."""


class EngineError(ProbeError):
    """An engine cannot run the model, or no longer can; one backward per sample can."""


class WriteError(ProbeError, OSError):
    """A file or folder cannot be written; what stood there before is unchanged.

    Args:
        path: The file or folder.
        error: The error of the operating system; its number and its words are kept.

    >>> print(WriteError(Path("a.csv"), OSError(errno.ENOSPC, "No space left on device")))
    expected to write a.csv, but that failed (No space left on device); free some space there, and run the same again
    """

    def __init__(self, path: Path, error: OSError) -> None:
        remedy = "free some space there, and run the same again" if error.errno in _FULL else "choose another place"
        super().__init__(f"expected to write {path}, but that failed ({error.strerror or error}); {remedy}")
        self.errno, self.strerror = error.errno, error.strerror

    def __str__(self) -> str:
        return str(self.args[0])  # not the number and the words alone, as OSError does


class ProbeWarning(UserWarning):
    """A number in the report is undefined or needs an explanation."""


def first_line(error: Exception) -> str:
    """Shorten an error's message, to quote it as a reason inside another sentence.

    Args:
        error: The error.

    Returns:
        The first line of its message, without PyTorch's own words and without a recommended engine. Of our own
        "expected X, but Y", only Y, which is a sentence of its own.

    >>> first_line(ProbeError("expected one graph, but the graph changed; pass engine='loop'"))
    'the graph changed'
    >>> first_line(RuntimeError("expected m1 and m2 to have the same dtype, but got: float != double"))
    'expected m1 and m2 to have the same dtype, but got: float != double'
    """
    line = (str(error).splitlines() or [type(error).__name__])[0]
    line = line.partition(" (PyTorch:")[0].partition("; pass engine")[0]
    expected, _, instead = line.partition(", but ")
    # other libraries use the words "expected ..., but got: ..." too, where the second half alone says nothing
    ours = isinstance(error, ProbeError) and expected.startswith("expected ")
    return (instead if ours and instead else line)[:250]
