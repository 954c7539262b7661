"""Freed memory is kept when asked for, and only then."""

import ctypes
import json
import os
import platform
import subprocess
import sys

import pytest

from gsnr_toolkit.commands import common as command
from gsnr_toolkit.support import allocator
from gsnr_toolkit.support.allocator import keep_freed_memory

GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
PROGRAM = """
import json, resource, sys
import numpy as np
from gsnr_toolkit.support.allocator import keep_freed_memory

done = keep_freed_memory() if sys.argv[1] == "keep" else None
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = np.ones(2**23)
    del block
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps({"done": done, "faults": faults}))
"""


def _run(mode, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in allocator._SETTINGS}
    command_line = [sys.executable, "-c", PROGRAM, mode]
    done = subprocess.run(command_line, env={**environment, **variables}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(not GLIBC, reason="glibc alone can be told so")
def test_a_block_that_was_freed_is_used_again():
    """64 MiB are 16384 pages; after the first time none of them is asked for again."""
    kept, default = _run("keep"), _run("default")
    assert kept["done"] is True
    assert max(kept["faults"][1:]) < 100
    assert min(default["faults"]) > 32  # pages of 2 MiB, if not 16384 of 4 KiB


def test_what_the_environment_says_goes_first():
    assert _run("keep", MALLOC_TRIM_THRESHOLD_="131072")["done"] is False


def test_other_systems_and_other_allocators_are_left_alone(monkeypatch):
    for name in allocator._SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", None)  # not even tried
    assert keep_freed_memory() is False


def test_commands_keep_it(monkeypatch):
    called = []
    monkeypatch.setattr(command, "keep_freed_memory", lambda: called.append("kept"))
    monkeypatch.setattr("warnings.showwarning", None)
    command.run_command(lambda: called.append("ran"))
    assert called == ["kept", "ran"]
