"""Semantic attributes of a procedural face: their names, palettes and frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Attribute:
    """One categorical attribute of a face.

    Attributes:
        name: Name of the attribute, the key of :data:`ATTRIBUTES`.
        values: Names of its values; a code is an index into this tuple.
        weights: Frequency of each value among procedural faces; they sum to one.
    """

    name: str
    values: tuple[str, ...]
    weights: tuple[float, ...]

    def codes(self, uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
        """Map uniform draws to codes by inverting the cumulative frequencies.

        Args:
            uniforms: Draws in [0, 1), any shape.

        Returns:
            Codes of the same shape.

        >>> Attribute("coin", ("heads", "tails"), (0.5, 0.5)).codes(np.array([0.1, 0.9])).tolist()
        [0, 1]
        """
        edges = np.cumsum(self.weights)[:-1]
        return np.searchsorted(edges, uniforms, side="right")


def _attribute(name: str, **frequencies: float) -> Attribute:
    total = sum(frequencies.values())
    return Attribute(name, tuple(frequencies), tuple(value / total for value in frequencies.values()))


SKIN: MappingProxyType[str, Color] = MappingProxyType(
    {
        "pale": (0.97, 0.86, 0.78),
        "fair": (0.93, 0.76, 0.62),
        "tan": (0.82, 0.61, 0.44),
        "brown": (0.60, 0.41, 0.28),
        "dark": (0.40, 0.27, 0.20),
    }
)
HAIR: MappingProxyType[str, Color] = MappingProxyType(
    {
        "black": (0.11, 0.09, 0.10),
        "brown": (0.34, 0.20, 0.12),
        "blond": (0.87, 0.71, 0.40),
        "red": (0.66, 0.27, 0.11),
        "grey": (0.66, 0.66, 0.68),
    }
)
EYES: MappingProxyType[str, Color] = MappingProxyType(
    {"brown": (0.30, 0.16, 0.08), "blue": (0.22, 0.45, 0.82), "green": (0.22, 0.55, 0.26)}
)
CLOTHES: MappingProxyType[str, Color] = MappingProxyType(
    {
        "red": (0.75, 0.16, 0.18),
        "blue": (0.16, 0.28, 0.62),
        "green": (0.15, 0.45, 0.28),
        "yellow": (0.90, 0.74, 0.20),
        "white": (0.92, 0.92, 0.90),
        "black": (0.13, 0.13, 0.15),
    }
)
BACKGROUND: MappingProxyType[str, Color] = MappingProxyType(
    {
        "blue": (0.42, 0.62, 0.85),
        "green": (0.48, 0.68, 0.46),
        "grey": (0.58, 0.58, 0.60),
        "orange": (0.90, 0.60, 0.36),
        "pink": (0.90, 0.62, 0.70),
        "purple": (0.52, 0.42, 0.66),
        "white": (0.93, 0.93, 0.91),
        "dark": (0.19, 0.19, 0.22),
    }
)

ATTRIBUTES: MappingProxyType[str, Attribute] = MappingProxyType(
    {
        attribute.name: attribute
        for attribute in (
            _attribute("skin", **dict.fromkeys(SKIN, 1.0)),
            _attribute("hair_color", **dict.fromkeys(HAIR, 1.0)),
            _attribute("hair_style", bald=0.10, short=0.30, long=0.24, curly=0.18, fringe=0.18),
            _attribute("eyes", brown=0.40, blue=0.30, green=0.30),
            _attribute("glasses", none=0.66, glasses=0.24, sunglasses=0.10),
            _attribute("beard", none=0.58, stubble=0.12, moustache=0.12, beard=0.18),
            _attribute("expression", neutral=0.26, smiling=0.26, laughing=0.18, sad=0.14, surprised=0.16),
            _attribute("pose", left=0.30, frontal=0.40, right=0.30),
            _attribute("clothes", **dict.fromkeys(CLOTHES, 1.0)),
            _attribute("background", **dict.fromkeys(BACKGROUND, 1.0)),
            _attribute("light", left=0.35, frontal=0.30, right=0.35),
        )
    }
)


def palette(colors: MappingProxyType[str, Color]) -> NDArray[np.float64]:
    """Return the colours of a palette as an array indexed by attribute code.

    Args:
        colors: One of the palettes of this module.

    Returns:
        Array (number of colours, 3), values in [0, 1].

    >>> palette(EYES).shape
    (3, 3)
    """
    return np.array(list(colors.values()))
