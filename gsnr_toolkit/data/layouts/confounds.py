"""Confounds: differences in file format or image size between the classes, which have nothing to do with forgery."""

from __future__ import annotations

import warnings
from collections import Counter

from PIL import Image

from gsnr_toolkit.data.base import FAKE, REAL, ForgeryDataset
from gsnr_toolkit.errors import ProbeWarning

__all__ = ["format_confounds", "jpeg_share_note", "note_confounds"]


def format_confounds(dataset: ForgeryDataset, sample: int = 200) -> tuple[str, ...]:
    """Find differences in file format and image size between the classes.

    Formats and sizes are read from the headers of evenly spaced files. GenImage is the known case: its real images
    are mostly JPEG of many sizes, its fakes PNG of one size.

    Args:
        dataset: A data set whose records have a column ``path``.
        sample: Approximate number of images per class to read, at most twice as many.

    Returns:
        A sentence per large difference, formats first. A difference is large if more than half of one class would
        have to change for the two distributions to agree.
    """
    headers = {label: _headers(dataset, label, sample) for label in (REAL, FAKE)}
    found = []
    for what, part in (("file formats", 0), ("image sizes", 1)):
        real, fake = (Counter(header[part] for header in headers[label]) for label in (REAL, FAKE))
        if _distance(real, fake) > 0.5:
            found.append(
                f"the {what} of real ({_describe(real)}) and fake ({_describe(fake)}) images differ: a detector can "
                "separate the classes by that alone. Save both in the same way before drawing conclusions"
            )
    return tuple(found)


def note_confounds(name: str, dataset: ForgeryDataset) -> None:
    """Add the confounds of a data set to its notes, and warn if there are any.

    Args:
        name: The name of the data set, for the warning.
        dataset: A data set whose records have a column ``path``.
    """
    found = format_confounds(dataset)
    dataset.notes += found
    if found:
        warnings.warn(f"{name}: {'; '.join(found)}", ProbeWarning, stacklevel=3)


def jpeg_share_note(dataset: ForgeryDataset, sample: int = 500) -> str:
    """Report the share of JPEG files in each class, and its consequence for a score.

    Args:
        dataset: A data set whose records have a column ``path``.
        sample: Approximate number of evenly spaced images per class to read, at most twice as many.

    Returns:
        A sentence with both shares and the numbers of files read.
    """
    shares, counts = {}, {}
    for label in (REAL, FAKE):
        formats = [header[0] for header in _headers(dataset, label, sample)]
        shares[label], counts[label] = formats.count("JPEG") / len(formats), len(formats)
    text = (
        f"JPEG files: {shares[REAL]:.0%} of the real images ({counts[REAL]} looked at), {shares[FAKE]:.0%} of the fake "
        f"ones ({counts[FAKE]})"
    )
    if abs(shares[REAL] - shares[FAKE]) <= 0.5:
        return text
    return (
        f"{text}: a detector of JPEG traces alone would separate the classes. Compare with both saved in the same way "
        "before drawing conclusions"
    )


def _headers(dataset: ForgeryDataset, label: int, sample: int) -> list[tuple[str, str]]:
    """Read format and size from the headers of every k-th file of a class; no image is decoded."""
    paths = dataset.records["path"][dataset.labels == label].tolist()
    found = []
    for path in paths[:: max(1, len(paths) // sample)]:
        try:
            with Image.open(path) as image:
                found.append((str(image.format), f"{image.width}x{image.height}"))
        except (OSError, Image.DecompressionBombError):
            found.append(("unreadable", "unreadable"))
    return found


def _distance(first: Counter[str], second: Counter[str]) -> float:
    """Return the total variation distance of two distributions, in [0, 1]."""
    total = (sum(first.values()), sum(second.values()))
    return sum(abs(first[key] / total[0] - second[key] / total[1]) for key in first | second) / 2


def _describe(counts: Counter[str]) -> str:
    common = ", ".join(f"{count} {key}" for key, count in counts.most_common(2))
    return common + (f", and {len(counts) - 2} more kinds" if len(counts) > 2 else "")
