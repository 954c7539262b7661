"""Differences between the classes that have nothing to do with forgery: file format and image size."""

from __future__ import annotations

from collections import Counter

from gsnr_toolkit.data.base import FAKE, REAL, ForgeryDataset

__all__ = ["format_confounds", "jpeg_share_note"]


def format_confounds(dataset: ForgeryDataset, sample: int = 200) -> tuple[str, ...]:
    """Look for differences between the classes that have nothing to do with forgery.

    Compared are the file formats and the image sizes, both as the files' own headers say, on evenly spaced
    samples. GenImage is the known case: its real images are mostly JPEG of many sizes, its fakes PNG of one size.

    Args:
        dataset: A data set whose records have a column ``path``.
        sample: About how many images per class to look at, at most twice as many.

    Returns:
        A sentence for each difference that stands out: more than half of one class would have to change for
        the two distributions to agree. Formats come first.
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


def jpeg_share_note(dataset: ForgeryDataset, sample: int = 500) -> str:
    """Say which share of either class is JPEG, and what that means for a score.

    Args:
        dataset: A data set whose records have a column ``path``.
        sample: About how many images per class to look at, at most twice as many, evenly spaced.

    Returns:
        A sentence with both shares and the numbers of files that were read.
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
    """Format and size by the header of every k-th file of a class, without decoding it."""
    from PIL import Image

    paths = dataset.records["path"][dataset.labels == label].tolist()
    found = []
    for path in paths[:: max(1, len(paths) // sample)]:
        try:
            with Image.open(path) as image:
                found.append((str(image.format), f"{image.width}x{image.height}"))
        except OSError:
            found.append(("unreadable", "unreadable"))
    return found


def _distance(first: Counter[str], second: Counter[str]) -> float:
    """Return the total variation distance of two distributions, in [0, 1]."""
    total = (sum(first.values()), sum(second.values()))
    return sum(abs(first[key] / total[0] - second[key] / total[1]) for key in first | second) / 2


def _describe(counts: Counter[str]) -> str:
    common = ", ".join(f"{count} {key}" for key, count in counts.most_common(2))
    return common + (f", and {len(counts) - 2} more kinds" if len(counts) > 2 else "")
