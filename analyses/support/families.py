"""The four families of forgeries: order, names, colours and markers in every figure."""

from __future__ import annotations

from collections.abc import Sequence

from gsnr_toolkit.report.plots.style import OKABE_ITO

FAMILIES = ("df", "fs", "f2f", "nt")
"""In the order of the paper's data sets: from the most to the least semantic forgery."""

NAMES = {"df": "Deepfakes", "fs": "FaceSwap", "f2f": "Face2Face", "nt": "NeuralTextures"}
"""The manipulation of FaceForensics++ that a family imitates."""

COLORS = {
    "df": OKABE_ITO["blue"],
    "fs": OKABE_ITO["green"],
    "f2f": OKABE_ITO["orange"],
    "nt": OKABE_ITO["vermillion"],
}
MARKERS = {"df": "o", "fs": "s", "f2f": "^", "nt": "D"}


def family_of(name: str) -> str:
    """Return the family of a data set: its name without ``demo-``.

    >>> family_of("demo-nt"), family_of("nt")
    ('nt', 'nt')
    """
    return name.removeprefix("demo-")


def data_words(names: Sequence[str]) -> str:
    """Return the words for data sets in a caption: ``"embedded data"`` if all are embedded, otherwise their names.

    >>> data_words(["demo-df", "demo-nt"]), data_words(["df", "nt"])
    ('embedded data', 'FaceForensics++ (Deepfakes, NeuralTextures)')
    """
    if all(name.startswith("demo-") for name in names):
        return "embedded data"
    known = [NAMES[name] for name in names if name in NAMES]
    others = [name for name in names if name not in NAMES]
    return "; ".join(([f"FaceForensics++ ({', '.join(known)})"] if known else []) + others)
