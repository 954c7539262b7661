"""The process of one run: ``python -m gsnr_toolkit.sweeps.worker JOB``, started by :mod:`gsnr_toolkit.sweeps.local`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import NoReturn

from gsnr_toolkit.sweeps.job import Job, perform

_PATIENCE = 10.0
"""Seconds that a run has to end in order after its parent process has ended."""


def main() -> NoReturn:
    """Do the run that the command line describes; the exit code is 0 if it succeeded."""
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(0 if perform(Job.from_json(sys.argv[1])) else 1)


def _leave(*_: object) -> None:
    # An exception, so that half-written files are removed on the way out.
    raise SystemExit(128 + signal.SIGTERM)


def _end_with_parent() -> None:
    """End after the parent process, because otherwise a resumed sweep would write to the same folder.

    The parent never writes to this pipe. Reading returns when the parent's end is closed, even by kill -9.
    """
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(1)


if __name__ == "__main__":
    main()
