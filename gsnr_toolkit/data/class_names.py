"""Which class the name of a folder, or of a class, stands for."""

from __future__ import annotations

from typing import Any

from gsnr_toolkit.data.base import FAKE, REAL

__all__ = ["FAKE_NAMES", "REAL_NAMES", "class_of", "named_classes"]

REAL_NAMES = frozenset({"real", "0_real", "nature", "original", "originals", "authentic"})
FAKE_NAMES = frozenset({"fake", "1_fake", "ai", "forged", "synthetic", "generated"})

_MORE_REAL = {"reals", "live", "genuine", "bonafide", "bona_fide", "pristine", "youtube", "natural", "human"}
_MORE_FAKE = {
    "fakes",
    "spoof",
    "spoofed",
    "manipulated",
    "tampered",
    "deepfake",
    "deepfakes",
    "altered",
    "attack",
    "gan",
}


def class_of(folder: str) -> int | None:
    """Return the class of a folder by its name, in lower or upper case; None if it names no class.

    >>> class_of("Real"), class_of("1_fake"), class_of("holiday")
    (0, 1, None)
    """
    folded = folder.lower()
    return REAL if folded in REAL_NAMES else FAKE if folded in FAKE_NAMES else None


def named_classes(data: Any) -> dict[int, int] | None:
    """Read from a data set's ``class_to_idx`` or ``classes`` what its labels mean.

    Subsets and concatenations are looked through.

    Args:
        data: A map-style data set, such as torchvision's ``ImageFolder``.

    Returns:
        Its label to 0 (real) or 1 (fake); None if its classes have no such names, or a ``target_transform`` gives
        labels of its own.
    """
    if getattr(data, "target_transform", None) is not None:
        return None
    if (inner := getattr(data, "dataset", None)) is not None:
        return named_classes(inner)
    if parts := getattr(data, "datasets", None):
        found = [named_classes(part) for part in parts]
        return found[0] if all(one == found[0] for one in found) else None
    names = getattr(data, "class_to_idx", None)
    if not isinstance(names, dict):
        listed = getattr(data, "classes", None)
        names = {str(name): index for index, name in enumerate(listed)} if isinstance(listed, (list, tuple)) else {}
    meaning = {index: _meant(str(name)) for name, index in names.items()}
    return {k: v for k, v in meaning.items() if v is not None} if set(meaning.values()) == {REAL, FAKE} else None


def _meant(name: str) -> int | None:
    folded = name.lower().replace("-", "_").replace(" ", "_")
    if folded in REAL_NAMES | _MORE_REAL:
        return REAL
    return FAKE if folded in FAKE_NAMES | _MORE_FAKE else None
