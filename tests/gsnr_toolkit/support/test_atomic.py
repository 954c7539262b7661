import errno
import os
import resource

import pytest
import torch

from gsnr_toolkit.errors import ProbeError, WriteError
from gsnr_toolkit.support.atomic import (
    atomic_file,
    check_folder,
    make_folder,
    read_json,
    remove_partial_files,
    write_json,
    write_text,
)


@pytest.fixture
def small_files():
    """Files of at most 2000 bytes, as a quota or a full disk would have it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 5000),
        lambda path: write_json(path, list(range(5000))),
        lambda path: _save(path, {"weights": torch.zeros(5000)}),
        lambda path: _save(path, {f"w{i}": torch.zeros(30) for i in range(100)}),
    ],
)
def test_without_space_the_old_file_stays_and_the_error_says_what_to_do(write, tmp_path, small_files):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(WriteError, match=r"to write .*/a, but that failed \(File too large\); free some space"):
        write(path)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def _save(path, state):
    with atomic_file(path) as stream:
        torch.save(state, stream)


def test_a_full_disk_is_told_with_its_number(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device\); free some space there") as caught:
        write_text(tmp_path / "a", "text")
    assert (caught.value.errno, caught.value.strerror) == (errno.ENOSPC, "No space left on device")
    assert isinstance(caught.value, ProbeError)
    assert not list(tmp_path.iterdir())


def test_errors_that_are_none_of_writing_stay_as_they_are(tmp_path):
    for error in (KeyboardInterrupt, ZeroDivisionError):
        with pytest.raises(error), atomic_file(tmp_path / "a"):
            raise error
    try:
        raise OSError("something else")
    except OSError:
        # Ctrl-C while an OSError is handled
        with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "a"):
            raise KeyboardInterrupt from None


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "a", tmp_path / "file" / "a"):
        with pytest.raises(WriteError, match="choose another place"):
            write_text(path, "text")
    with pytest.raises(ProbeError, match=r"expected a folder, got the file .*/file; choose another place"):
        make_folder(tmp_path / "file")
    with pytest.raises(WriteError, match="choose another place"):
        make_folder(tmp_path / "file" / "below")


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe{}"])
def test_half_a_json_is_told(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ProbeError, match=r"expected JSON in .*a.json, but it cannot be read"):
        read_json(tmp_path / "a.json")


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path):
    for name in (".a.csv.x7_kd9ab.partial", "a.csv", ".hidden", "b.partial"):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", ".hidden", "b.partial"}


def test_a_folder_is_checked_before_work_begins(tmp_path, monkeypatch):
    check_folder(None)
    check_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(WriteError, match=r"Permission denied.*choose another place"):
        check_folder(tmp_path)


@pytest.mark.parametrize("cause", ["context", "cause", "none"])
def test_an_error_that_the_caller_was_handling_is_not_blamed_on_the_file(cause, tmp_path):
    with pytest.raises(ValueError, match="my own error"):
        try:
            raise FileNotFoundError("another file")
        except OSError as error:
            with atomic_file(tmp_path / "a"):
                if cause == "context":
                    raise ValueError("my own error")  # noqa: B904
                raise ValueError("my own error") from (error if cause == "cause" else None)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_is_told_also_while_another_error_is_handled(tmp_path, small_files):
    with pytest.raises(WriteError, match="File too large"):
        try:
            raise ValueError("another error")
        except ValueError:
            _save(tmp_path / "a", {"weights": torch.zeros(5000)})


def test_an_error_that_hides_its_context_stays_as_it_is(tmp_path):
    with pytest.raises(ValueError, match="my own error"), atomic_file(tmp_path / "a"):
        try:
            raise FileNotFoundError("another file")
        except OSError:
            raise ValueError("my own error") from None
