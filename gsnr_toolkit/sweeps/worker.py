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
"""Seconds that a run has to end by itself once nobody waits for it."""


def main() -> NoReturn:
    """Make the run that the command line describes; the exit code tells whether it went well."""
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(0 if perform(Job.from_json(sys.argv[1])) else 1)


def _leave(*_: object) -> None:
    # an exception, so that half-written files are removed on the way out
    raise SystemExit(128 + signal.SIGTERM)


def _end_with_parent() -> None:
    """End when the process that started this one has: otherwise two would soon write to one folder.

    Nothing is ever written to this pipe; it ends when its other end is gone, also after kill -9.
    """
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(1)


if __name__ == "__main__":
    main()
