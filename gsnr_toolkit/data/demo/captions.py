"""Captions of procedural faces, and a small word-level tokenizer.

A caption names a random subset of the semantic attributes ("a photo of a person , red hair , a blue background") and
sometimes photographic ones ("a grainy low quality jpeg photo of ..."), as the prompt templates of CLIP do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from gsnr_toolkit.data.demo.attributes import ATTRIBUTES
from gsnr_toolkit.data.demo.camera import PHOTOGRAPHIC

Codes = Mapping[str, NDArray[np.int64]]

CONTEXT_LENGTH = 48
VOCABULARY_SIZE = 256
PAD, START, END = 0, 1, VOCABULARY_SIZE - 1

_TEMPLATES: MappingProxyType[str, str] = MappingProxyType(
    {
        "skin": "{} skin",
        "hair_color": "{} hair",
        "hair_style": "{} hair",
        "eyes": "{} eyes",
        "background": "a {} background",
        "clothes": "a {} shirt",
        "expression": "a {} face",
        "light": "light from the {}",
        "pose": "looking {}",
    }
)
_PHRASES: MappingProxyType[tuple[str, str], str] = MappingProxyType(
    {
        ("glasses", "none"): "no glasses",
        ("glasses", "glasses"): "glasses",
        ("glasses", "sunglasses"): "sunglasses",
        ("beard", "none"): "no beard",
        ("beard", "stubble"): "stubble",
        ("beard", "moustache"): "a moustache",
        ("beard", "beard"): "a beard",
        ("hair_style", "bald"): "a bald head",
        ("hair_style", "fringe"): "hair with a fringe",
        ("pose", "frontal"): "looking ahead",
        ("light", "frontal"): "light from the front",
        ("grain", "clean"): "clean",
        ("grain", "grainy"): "grainy",
        ("blur", "sharp"): "sharp",
        ("blur", "blurry"): "blurry",
        ("compression", "high quality"): "high quality",
        ("compression", "low quality"): "low quality jpeg",
        ("lighting", "dim"): "dim",
        ("lighting", "normal"): "good",
        ("lighting", "bright"): "bright",
    }
)


def phrase(name: str, value: str) -> str:
    """Return the words for one attribute value.

    Args:
        name: Attribute name, semantic or photographic.
        value: Value name.

    Returns:
        The phrase.

    >>> phrase("hair_color", "red"), phrase("compression", "low quality")
    ('red hair', 'low quality jpeg')
    """
    return _PHRASES.get((name, value)) or _TEMPLATES[name].format(value)


def prompt(name: str, value: str) -> str:
    """Return the zero-shot prompt of one attribute value.

    Args:
        name: Attribute name, semantic or photographic.
        value: Value name.

    Returns:
        A caption that names this attribute only.

    >>> prompt("beard", "moustache"), prompt("grain", "grainy")
    ('a photo of a person , a moustache', 'a grainy photo of a person')
    """
    if name in PHOTOGRAPHIC:
        return f"a {phrase(name, value)} photo of a person"
    return f"a photo of a person , {phrase(name, value)}"


def visible(codes: Codes, name: str) -> NDArray[np.bool_]:
    """Tell which faces show an attribute: sunglasses hide the eyes, and a bald head has no hair colour.

    Args:
        codes: Codes by attribute name, (N,) each.
        name: The attribute.

    Returns:
        Booleans (N,).
    """
    hidden = np.zeros(len(codes[name]), dtype=bool)
    if name == "eyes":
        hidden = codes["glasses"] == ATTRIBUTES["glasses"].values.index("sunglasses")
    if name == "hair_color":
        hidden = codes["hair_style"] == ATTRIBUTES["hair_style"].values.index("bald")
    return ~hidden


BROAD_COLORS = ("skin", "hair_color", "clothes", "background")
"""Colours of large areas: the easiest attributes to learn, and enough to distinguish most faces of a batch."""


def captions(
    codes: Codes,
    rng: np.random.Generator,
    *,
    semantic: float = 0.6,
    colors: float = 0.6,
    photographic: float = 0.25,
) -> list[str]:
    """Write one caption per face that names a random subset of its attributes in random order.

    Args:
        codes: Codes by attribute name, semantic and photographic, (N,) each.
        rng: Source of randomness.
        semantic: Probability that a visible semantic attribute is named.
        colors: The same probability for the attributes of :data:`BROAD_COLORS`.
        photographic: Probability that a photographic attribute is named.

    Returns:
        Captions, N of them.

    >>> from gsnr_toolkit.data.demo.pairs import real_faces
    >>> _, codes = real_faces([0])
    >>> captions(codes, np.random.default_rng(0), semantic=0.0, colors=0.0, photographic=0.0)
    ['a photo of a person']
    """
    count = len(next(iter(codes.values())))
    scene, camera = list(ATTRIBUTES), list(PHOTOGRAPHIC)
    rates = np.array([colors if name in BROAD_COLORS else semantic for name in scene])
    named = rng.random((count, len(scene))) < rates
    named &= np.stack([visible(codes, name) for name in scene], axis=1)
    taken = rng.random((count, len(camera))) < photographic
    order = rng.random((count, len(scene))).argsort(axis=1)
    lines = []
    for row in range(count):
        words = [phrase(n, PHOTOGRAPHIC[n].values[codes[n][row]]) for n in _chosen(camera, taken[row])]
        names = [scene[k] for k in order[row] if named[row, k]]
        parts = [phrase(n, ATTRIBUTES[n].values[codes[n][row]]) for n in names]
        lines.append(" , ".join([" ".join(["a", *words, "photo of a person"]), *parts]))
    return lines


def _chosen(names: list[str], taken: NDArray[np.bool_]) -> list[str]:
    return [name for name, chosen in zip(names, taken, strict=True) if chosen]


def _vocabulary() -> dict[str, int]:
    known = {**ATTRIBUTES, **PHOTOGRAPHIC}
    words = {
        word for name, attribute in known.items() for value in attribute.values for word in prompt(name, value).split()
    }
    return {word: index for index, word in enumerate(sorted(words), start=START + 1)}


VOCABULARY: MappingProxyType[str, int] = MappingProxyType(_vocabulary())
"""Token number by word. 0 is padding, 1 starts a caption and 255 ends it: CLIP reads the text at its highest token."""


def tokenize(texts: Sequence[str]) -> NDArray[np.int64]:
    """Convert captions to token numbers, padded to the context length.

    Args:
        texts: Captions of known words, separated by spaces.

    Returns:
        Tokens (N, 48); a caption that is too long is truncated and still ends with the end token.

    Raises:
        ValueError: If a word is not in the vocabulary.

    >>> tokenize(["a photo of a person"])[0, :8].tolist()[0], int(tokenize(["a photo"])[0, 3])
    (1, 255)
    """
    tokens = np.full((len(texts), CONTEXT_LENGTH), PAD, dtype=np.int64)
    for row, text in enumerate(texts):
        words = text.split()[: CONTEXT_LENGTH - 2]
        unknown = [word for word in words if word not in VOCABULARY]
        if unknown:
            raise ValueError(
                f"expected known words in {text!r}, got {unknown[0]!r}; use only these: {', '.join(sorted(VOCABULARY))}"
            )
        ids = [START, *(VOCABULARY[word] for word in words), END]
        tokens[row, : len(ids)] = ids
    return tokens
