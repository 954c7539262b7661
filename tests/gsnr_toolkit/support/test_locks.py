import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.locks import is_locked, locked, wait_until_free


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path):
    folder = tmp_path / "deep" / "run"
    with locked(folder):
        assert is_locked(folder)
        message = rf"but this process \({os.getpid()}\) is working on it already; end that run first"
        with pytest.raises(ProbeError, match=message), locked(folder):
            pass
        assert is_locked(folder)  # the refusal did not take the lock away
    assert not (tmp_path / "deep").exists()  # nothing was written, so nothing is left
    with locked(folder):
        (folder / "a").touch()
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_a_lock_goes_with_its_process(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom gsnr_toolkit.support.locks import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('locked', flush=True)\n    input()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ProbeError, match=rf"another process \(process {other.pid}\)"), locked(tmp_path):
            pass
        other.kill()
        other.wait()
    assert (tmp_path / ".lock").exists()  # its file stays, without a lock
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_one_of_many_at_once_gets_it(tmp_path):
    inside, most, refused = [], [], []

    def work():
        for _ in range(200):
            try:
                with locked(tmp_path / "run"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except ProbeError:
                refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert len(most) + len(refused) == 800


def test_waiting_ends_with_the_lock(tmp_path):
    wait_until_free(tmp_path / "missing", 10)
    with locked(tmp_path):
        began = time.monotonic()
        wait_until_free(tmp_path, 0.2)
        assert time.monotonic() - began >= 0.2
    wait_until_free(tmp_path, 10)


def test_a_full_disk_leaves_the_lock_without_a_name(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with locked(tmp_path):
            assert is_locked(tmp_path)
            assert (tmp_path / ".lock").stat().st_size == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())


def test_a_lock_does_not_live_on_in_a_forked_child(tmp_path):
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom gsnr_toolkit.support.locks import locked\n"
        "with locked(Path(sys.argv[1])):\n    child = os.fork()\n    if child:\n        print(child, flush=True)\n"
        "    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        child = int(other.stdout.readline())
        try:
            assert is_locked(tmp_path)
            other.kill()
            other.wait()
            wait_until_free(tmp_path, 5)  # the child may only just have begun
            os.kill(child, 0)  # it lives
            assert not is_locked(tmp_path)
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_leaves_the_block_leaves_the_lock(tmp_path):
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom gsnr_toolkit.support.locks import is_locked, locked\n"
        "folder = Path(sys.argv[1])\nwith locked(folder):\n    child = os.fork()\n    if child:\n"
        "        print(os.waitpid(child, 0)[1], is_locked(folder), flush=True)"
    )
    found = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert found.stdout == "0 True\n"
    assert not list(tmp_path.iterdir())


def test_looking_at_a_lock_does_not_keep_a_run_out(tmp_path):
    path = tmp_path / ".lock"
    path.touch()
    with open(path) as first:
        fcntl.flock(first, fcntl.LOCK_SH)  # another look, in the middle
        assert not is_locked(tmp_path)
        timer = threading.Timer(0.05, fcntl.flock, (first, fcntl.LOCK_UN))
        timer.start()
        with locked(tmp_path):
            assert is_locked(tmp_path)
        timer.join()


def test_a_run_starts_while_the_one_before_it_ends(tmp_path):
    folder = tmp_path / "run"
    inside = threading.Event()

    def work():
        with locked(folder):
            inside.set()
            time.sleep(0.08)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    with locked(folder):  # the first has removed its empty folder by now
        assert is_locked(folder)
    thread.join()
