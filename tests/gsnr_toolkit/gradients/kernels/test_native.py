"""The library is built once on the user's machine and loaded, or left out with a reason."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from gsnr_toolkit.gradients.kernels import native

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None, reason="the library is built by g++ on Linux"
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(native.SWITCH, raising=False)
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "gsnr_toolkit"


def _said():
    """Return the description that a fresh process would give."""
    native._library.cache_clear()
    try:
        return native.description().removesuffix(", products by torch")  # on a processor without wide vectors
    finally:
        native._library.cache_clear()


@needs_compiler
def test_it_is_built_once(cache, monkeypatch):
    assert _said() == "compiled"
    (made,) = cache.iterdir()  # no scratch file is left
    stamp = made.stat().st_mtime_ns
    monkeypatch.setattr(native, "_build", None)
    assert _said() == "compiled"
    assert made.stat().st_mtime_ns == stamp


@pytest.mark.slow
@needs_compiler
def test_another_torch_or_compiler_builds_its_own(cache, monkeypatch):
    assert _said() == "compiled"
    monkeypatch.setattr(torch, "__version__", "another")
    assert _said() == "compiled"
    monkeypatch.setenv("CXX", "g++ -O2")  # with arguments, as build tools allow
    assert _said() == "compiled"
    assert len(list(cache.iterdir())) == 3


@needs_compiler
def test_a_damaged_file_is_named_and_rebuilt(cache):
    made = native._found_or_built()
    made.write_bytes(b"no library")
    said = _said()
    assert str(made) in said
    assert "expected to load" in said
    assert _said() == "compiled"


def test_without_a_compiler(cache, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "platform", "linux")
    said = _said()
    assert said.startswith("torch (")
    assert "install g++" in said
    assert native.kernel() is None
    native._library.cache_clear()


def test_a_compiler_that_fails_or_does_not_exist(cache, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("CXX", f"{sys.executable} -c 'raise SystemExit(\"no such flag\")'")
    assert "no such flag" in _said()
    monkeypatch.setenv("CXX", "/no/compiler")
    assert "expected /no/compiler to run" in _said()
    assert not cache.exists() or not list(cache.iterdir())


@needs_compiler
def test_a_cache_that_cannot_be_written(cache):
    cache.parent.joinpath("gsnr_toolkit").write_text("a file where the folder should be")
    said = _said()
    assert str(cache) in said
    assert "expected to write to" in said


def test_a_user_without_a_home(cache, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("CXX", "g++")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(native.Path, "home", homeless)
    assert "set XDG_CACHE_HOME" in _said()


def test_it_can_be_turned_off(cache, monkeypatch):
    monkeypatch.setenv(native.SWITCH, "0")
    assert _said() == "torch (expected GSNR_TOOLKIT_NATIVE to be unset or 1, got 0; unset it to compile)"
    assert not cache.exists()


def test_other_systems_use_torch(cache, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert _said() == "torch (expected Linux, got darwin; run on Linux to compile)"


@pytest.mark.slow
@needs_compiler
def test_processes_that_build_at_the_same_time(cache):
    program = "from gsnr_toolkit.gradients.kernels import native; print(native.description())"
    started = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in started] == ["compiled"] * 2
    assert len(list(cache.iterdir())) == 1


@needs_compiler
def test_it_uses_the_threads_of_torch(cache):
    """A second OpenMP library in the process would keep its own threads spinning."""
    program = (
        "import torch; from gsnr_toolkit.gradients.kernels import native; before = open('/proc/self/maps').read()\n"
        "assert native.kernel(); after = open('/proc/self/maps').read()\n"
        "names = lambda text: {line.split()[-1] for line in text.splitlines() if 'omp' in line.rpartition('/')[2]}\n"
        "print(sorted(names(after) - names(before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
