"""What every command of the project does around its own work: memory kept, warnings and errors of use as one line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.allocator import keep_freed_memory

__all__ = ["EXIT_ERROR", "run_command"]

#: Exit code after an error of use.
EXIT_ERROR = 2


def run_command(app: Callable[[], object], packages: str = "gsnr_toolkit") -> None:
    """Run a command line: errors of use become one message and exit code 2, never a traceback.

    Args:
        app: The command line.
        packages: Modules whose warnings are shown each time, as a regular expression.

    Raises:
        SystemExit: After an error of use.
    """
    keep_freed_memory()
    warnings.filterwarnings("default", module=packages)
    warnings.showwarning = _show_warning
    try:
        app()
    except ProbeError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(EXIT_ERROR) from None


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    sys.stderr.write(f"warning: {message}\n")
