"""Errors that every data set words alike: an unknown choice, and files that are not where they belong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.lookup import did_you_mean

__all__ = ["DataError", "check_choice", "refuse_missing"]


class DataError(ProbeError):
    """Data that cannot be found, or that are not what was requested."""


def check_choice(what: str, value: str, allowed: Iterable[str], error: type[Exception] = DataError) -> None:
    """Check that a value is one of those allowed.

    Args:
        what: What the value is, such as ``"split"``.
        value: The value.
        allowed: The values to choose from.
        error: The type of error to raise.

    Raises:
        Exception: Of type ``error``, if the value is none of them.

    >>> check_choice("fit", "crops", ("squash", "crop"))
    Traceback (most recent call last):
    gsnr_toolkit.data.checks.DataError: expected fit to be one of squash, crop, got 'crops'; choose one of these. ...
    """
    names = list(allowed)
    if value not in names:
        listed = ", ".join(names) or "(there is none)"
        raise error(
            f"expected {what} to be one of {listed}, got {value!r}; choose one of these.{did_you_mean(value, names)}"
        )


def refuse_missing(expected: str, problem: str, tree: str) -> NoReturn:
    """Raise the error for files that are not on disk; it shows the folder tree of the layout.

    Args:
        expected: The missing files, such as ``"frames in /data/c23"``.
        problem: The situation on disk.
        tree: The folder tree of the layout.

    Raises:
        DataError: Always.
    """
    raise DataError(f"expected {expected}, but {problem}; arrange the files as\n{tree}")
