"""From identity numbers to developed pairs of a real face and its forgery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsnr_toolkit.data.checks import check_choice
from gsnr_toolkit.data.demo.attributes import ATTRIBUTES
from gsnr_toolkit.data.demo.camera import PHOTOGRAPHIC, Camera, Pixels
from gsnr_toolkit.data.demo.faces import Faces, Floats
from gsnr_toolkit.data.demo.families import FAMILIES
from gsnr_toolkit.data.demo.landmarks import landmarks
from gsnr_toolkit.data.demo.worlds import HOME

_PIXELS_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class DemoPair:
    """A real face and its forgery, developed by the same camera.

    Attributes:
        real: The photograph, (S, S, 3) uint8.
        fake: The forgery, (S, S, 3) uint8.
        mask: The forged region, (S, S) float32 in [0, 1].
        landmarks: 81 landmarks of the real face, (81, 2), x and y in pixels.
        attributes: Semantic and photographic attributes of the real face by name.
    """

    real: Pixels
    fake: Pixels
    mask: Floats
    landmarks: Floats
    attributes: dict[str, str]


def check_family(name: str) -> str:
    """Check the name of a forgery family.

    Args:
        name: The name.

    Returns:
        The same name.

    Raises:
        ValueError: If no family has this name.
    """
    check_choice("the forgery family", name, FAMILIES, ValueError)
    return name


def demo_pairs(
    family: str,
    identity: Sequence[int] | NDArray[np.int64],
    *,
    size: int = 64,
    seed: int = 0,
    strength: float = 1.0,
) -> tuple[Pixels, Pixels, Floats]:
    """Render pairs of real and forged faces.

    Args:
        family: A key of :data:`.families.FAMILIES`, such as ``nt``.
        identity: Identity numbers, N of them; a pair depends on its own number only.
        size: Width and height in pixels.
        seed: Seed of the whole data set.
        strength: Strength of the forgery; 1 is the family's default, and 0 leaves hardly any trace.

    Returns:
        Real images (N, S, S, 3) and forged images (N, S, S, 3), uint8, and masks (N, S, S), float32.

    Raises:
        ValueError: If the family is unknown or the strength negative.

    >>> real, fake, mask = demo_pairs("nt", [7, 8], size=32)
    >>> real.shape, fake.dtype, mask.shape
    ((2, 32, 32, 3), dtype('uint8'), (2, 32, 32))
    """
    forge, world = FAMILIES[check_family(family)].forge, FAMILIES[family].world
    if strength < 0:
        raise ValueError(f"expected strength to be at least 0, got {strength}; pass 1.0 for the family's default")
    blocks = []
    for numbers in _blocks(identity, size):
        shot = world.shoot(numbers, size, seed)
        forged, mask = forge(shot, strength)
        blocks.append((world.finish(shot.image, shot), world.finish(forged, shot), mask))
    real, fake, masks = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return real, fake, masks


def real_faces(
    identity: Sequence[int] | NDArray[np.int64], *, size: int = 64, seed: int = 0
) -> tuple[Pixels, dict[str, NDArray[np.int64]]]:
    """Render real faces only, with the codes of their semantic and photographic attributes.

    Args:
        identity: Identity numbers, N of them.
        size: Width and height in pixels.
        seed: Seed of the whole data set.

    Returns:
        Images (N, S, S, 3), uint8, and codes by attribute name, (N,) each.
    """
    images, codes = [], []
    for numbers in _blocks(identity, size):
        shot = HOME.shoot(numbers, size, seed)
        images.append(HOME.finish(shot.image, shot))
        codes.append({**shot.faces.codes, **shot.camera.codes})
    return np.concatenate(images), {name: np.concatenate([c[name] for c in codes]) for name in codes[0]}


def _blocks(identity: Sequence[int] | NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Cut identity numbers into blocks, which bounds the memory that rendering takes."""
    numbers = np.asarray(identity, dtype=np.int64)
    step = max(1, _PIXELS_AT_ONCE // (size * size))
    for start in range(0, len(numbers), step):
        yield numbers[start : start + step]


def describe(faces: Faces, camera: Camera) -> list[dict[str, str]]:
    """Return the semantic and photographic attributes of each face by name.

    Args:
        faces: The faces, N of them.
        camera: Their cameras.

    Returns:
        One dictionary per face.

    >>> sorted(describe(*HOME.sample(np.array([0]), 0))[0])[:3]
    ['background', 'beard', 'blur']
    """
    codes = {**faces.codes, **camera.codes}
    known = {**ATTRIBUTES, **PHOTOGRAPHIC}
    return [{n: known[n].values[int(c[i])] for n, c in codes.items()} for i in range(len(faces))]


def demo_pair(family: str, identity: int, *, size: int = 64, seed: int = 0, strength: float = 1.0) -> DemoPair:
    """Render one pair with mask, landmarks and attributes, for figures and for training on pairs.

    Args:
        family: A key of :data:`.families.FAMILIES`, such as ``nt``.
        identity: Identity number.
        size: Width and height in pixels.
        seed: Seed of the whole data set.
        strength: Strength of the forgery.

    Returns:
        The pair.

    >>> demo_pair("df", 7).landmarks.shape
    (81, 2)
    """
    real, fake, mask = demo_pairs(family, [identity], size=size, seed=seed, strength=strength)
    world = FAMILIES[family].world
    faces, camera = world.sample(np.array([identity + world.offset]), seed)
    return DemoPair(real[0], fake[0], mask[0], landmarks(faces, size)[0], describe(faces, camera)[0])
