"""Warnings that point at the user's own line, however deep in the package they arise."""

from __future__ import annotations

import sys
import warnings

from gsnr_toolkit.errors import ProbeWarning

_INSIDE = ("gsnr_toolkit", "corit", "torch", "contextlib")


def warn_user(message: str) -> None:
    """Issue a ``ProbeWarning`` at the line outside of this package and of torch that led here."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, ProbeWarning, stacklevel=level)
