"""Where a page goes: a file of somebody else's is never replaced."""

from __future__ import annotations

from pathlib import Path

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.report.pages.render import GENERATOR
from gsnr_toolkit.support.atomic import write_text

_HEAD = 4096  # bytes in which a page of ours has named its generator


def check_page(path: str | Path, *, overwrite: bool = False) -> Path:
    """Refuse, before any work, a file that is not ours to replace.

    Args:
        path: Where a page is to go; what was written here as a page before may be replaced.
        overwrite: Whether any other file may be, too.

    Returns:
        The path.

    Raises:
        ProbeError: If a folder or a file of somebody else's is there, or the path cannot be one.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ProbeError(
                f"expected a file for the page, got the folder {str(path)!r}; name a file, such as report.html"
            )
        if overwrite or not path.exists() or is_page(path):
            return path
    except OSError as error:
        raise ProbeError(_unwritable(path, error)) from error
    raise ProbeError(
        f"expected a new file or a page written here before, but {str(path)!r} is something else; choose another file, "
        "or overwrite it"
    )


def is_page(path: Path) -> bool:
    """Tell whether a file is a page that was written here.

    Args:
        path: The file.

    Returns:
        False for any other file.
    """
    with path.open("rb") as stream:
        return f'<meta name="generator" content="{GENERATOR} '.encode() in stream.read(_HEAD)


def write_page(path: str | Path, page: str, *, overwrite: bool = False) -> Path:
    """Write a page, whole or not at all.

    Args:
        path: Where to; its folder is made if missing.
        page: The page.
        overwrite: Whether a file that is no page of ours may be replaced.

    Returns:
        The path.

    Raises:
        ProbeError: If the file cannot be written, or is not ours to replace.
    """
    path = check_page(path, overwrite=overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("ab").close()  # a read-only file in a folder that can be written is not to be replaced
        write_text(path, page)
    except OSError as error:
        raise ProbeError(_unwritable(path, error)) from error
    return path


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"expected a file that can be written for the page, got {str(path)!r} ({error.strerror or error}); choose "
        "another one"
    )
