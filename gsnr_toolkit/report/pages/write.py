"""Write a page without replacing a file that is not a page of this package."""

from __future__ import annotations

from pathlib import Path

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.report.pages.render import GENERATOR
from gsnr_toolkit.support.arguments import PATH, check_arguments
from gsnr_toolkit.support.atomic import write_text

_HEAD = 4096  # bytes: the generator is named before this place


def check_page(path: str | Path, *, overwrite: bool = False) -> Path:
    """Check, before any work, that a page may be written to a path.

    Args:
        path: File to write; a page of this package may be replaced.
        overwrite: Whether any other file may be replaced, too.

    Returns:
        The path.

    Raises:
        ProbeError: If the path is a folder or another file, or cannot be one.
    """
    check_arguments(path=(path, PATH))
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
    """Return whether a file is a page of this package."""
    with path.open("rb") as stream:
        return f'<meta name="generator" content="{GENERATOR} '.encode() in stream.read(_HEAD)


def write_page(path: str | Path, page: str, *, overwrite: bool = False) -> Path:
    """Write a page, whole or not at all.

    Args:
        path: File to write; its folder is created if missing.
        page: The page.
        overwrite: Whether a file that is not a page of this package may be replaced.

    Returns:
        The path.

    Raises:
        ProbeError: If the file cannot be written, or may not be replaced.
    """
    path = check_page(path, overwrite=overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            # Renaming would replace even a read-only file, as long as its folder can be written.
            path.open("ab").close()
        write_text(path, page)
    except OSError as error:
        raise ProbeError(_unwritable(path, error)) from error
    return path


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"expected a file that can be written for the page, got {str(path)!r} ({error.strerror or error}); choose "
        "another one"
    )
