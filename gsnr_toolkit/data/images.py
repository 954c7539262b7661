"""The one reader of picture files: which files are pictures, which of them are read, and what their pixels are."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

__all__ = ["IMAGE_SUFFIXES", "MAX_ASPECT", "is_hidden", "is_image", "read_image", "refusal", "to_rgb", "unread_kind"]

#: Suffixes of pictures that Pillow reads by itself.
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif"}
)
_NEED_MORE = frozenset(
    {".heic", ".heif", ".jxl", ".jp2", ".psd", ".dng", ".cr2", ".nef", ".arw", ".raw", ".svg", ".exr", ".hdr"}
)
"""Pictures that need a plugin of Pillow or a conversion."""

MAX_ASPECT = 64
"""Longest side over shortest: beyond it a square cut from the picture says nothing about it."""

_HIDDEN_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information"})
_WHITE = {"I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I;16N": 65535}


def is_hidden(path: str | Path) -> bool:
    """Whether a name is one that systems and programs leave behind: ``._000.png``, ``__MACOSX``, ``@eaDir``.

    Args:
        path: A file or folder; only its own name counts.

    Returns:
        True for names that begin with a dot and for the folders of archives and file servers.

    >>> is_hidden("a/._000.png"), is_hidden("a/000.png")
    (True, False)
    """
    name = Path(path).name
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in _HIDDEN_FOLDERS


def is_image(path: str | Path) -> bool:
    """Tell whether a file's name is that of a picture that can be read.

    Args:
        path: The file; the suffix is what follows the last dot (names such as ``img.000.1.png`` occur).

    Returns:
        True for the suffixes in :data:`IMAGE_SUFFIXES` and for those of Pillow's plugins (pillow-heif, once
        registered), in lower or upper case, unless the file is hidden.
    """
    suffix = Path(path).suffix.lower()
    return not is_hidden(path) and (suffix in IMAGE_SUFFIXES or (suffix in _NEED_MORE and _has_plugin(suffix)))


def unread_kind(path: str | Path) -> str | None:
    """Return why a picture is left out by its name alone; None for pictures that are read and for other files.

    >>> unread_kind("photo.HEIC")
    'no reader for .heic; convert it to PNG or JPEG'
    """
    suffix = Path(path).suffix.lower()
    if is_hidden(path) or suffix not in _NEED_MORE or _has_plugin(suffix):
        return None
    return f"no reader for {suffix}; convert it to PNG or JPEG"


def _has_plugin(suffix: str) -> bool:
    return Image.registered_extensions().get(suffix) in Image.OPEN


def read_image(file: Path | IO[bytes]) -> Image.Image:
    """Decode a picture as viewers show it.

    The orientation in its EXIF data is applied. Of an animation, the first frame is read. 16 bits per channel are
    scaled to 8, and transparency is ignored, as in :func:`to_rgb`.

    Args:
        file: The file.

    Returns:
        An RGB image; ``info["alpha"]`` tells whether transparency was ignored.

    Raises:
        ValueError: If the picture has too many pixels, is too long and narrow, or has pixels without a known white.
        OSError: If the file cannot be decoded.
        SyntaxError: The same, for some formats.
    """
    with _opened(file) as image:
        reason = refusal(image)
        if reason is not None:
            raise ValueError(reason)
        image.load()
        found = to_rgb(image if _orientation(image) == 1 else ImageOps.exif_transpose(image))
        found.info["alpha"] = image.has_transparency_data
        return found


def _orientation(image: Image.Image) -> int:
    """The orientation that the EXIF data ask for; 1 (upright) if they cannot be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1


def refusal(image: Image.Image) -> str | None:
    """Find a reason not to read an opened picture, from its header alone.

    Args:
        image: A picture that is not decoded yet.

    Returns:
        The reason; None if there is none.
    """
    shortest, longest = sorted(image.size)
    if longest > MAX_ASPECT * shortest:
        return f"more than {MAX_ASPECT} times as long as wide"
    if image.mode in ("I", "F"):
        return "pixels of 32 bits, which have no known white; save it with 8 or 16 bits per channel"
    return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB with 8 bits per channel.

    Args:
        image: The picture. 16-bit grey values are divided by 257 and rounded; Pillow's own conversion would clip
            them at 255. Transparency is dropped, as by ``convert("RGB")``.

    Returns:
        An RGB image, the same object if it is one already.

    Raises:
        ValueError: If the pixels have 32 bits, and so no known white.

    >>> to_rgb(Image.fromarray(np.full((1, 1), 32896, np.uint16))).getpixel((0, 0))
    (128, 128, 128)
    """
    if image.mode in _WHITE:
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"expected pixels of 8 or 16 bits, got mode {image.mode} with 32, which has no known white; scale the image"
        )
    return image if image.mode == "RGB" else image.convert("RGB")


def unreadable(path: Path) -> str | None:
    """Find out whether an image file can be read, as cheaply as its format allows.

    For PNG, all chunks are read and their checksums compared. JPEG is decoded at an eighth of its size, which still
    reads the whole stream. Other formats are decoded in full.

    Args:
        path: The file.

    Returns:
        None if the file can be read, else the reason why not.

    >>> unreadable(Path("nowhere.png"))
    'missing file'
    """
    if not path.is_file():
        return "missing file"
    if path.stat().st_size == 0:
        return "empty file"
    try:
        with _opened(path) as image:
            reason = refusal(image)
            if reason is not None:
                return reason
            if image.format == "PNG":
                image.verify()
            else:
                image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
    except UnidentifiedImageError:
        return "not an image"
    except TooManyPixels as error:
        return str(error)
    except (OSError, SyntaxError, ValueError):  # Pillow raises all three; SyntaxError for a truncated PNG
        return "broken image"
    return None


class TooManyPixels(ValueError):
    """A picture beyond Pillow's limit, which guards against small files that fill the memory."""


def _opened(file: Path | IO[bytes]) -> Image.Image:
    try:
        return Image.open(file)  # Pillow warns from half the limit on
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise TooManyPixels(f"more than {most} pixels, twice PIL.Image.MAX_IMAGE_PIXELS") from error
