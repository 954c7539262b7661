"""Sampling of procedural faces: from an identity number to geometry and appearance.

A face is a pure function of ``(seed, identity)``. Each identity draws from its own generator, so that a face depends
neither on the other faces of its batch nor on the size at which it is rendered. Lengths are in image half-widths: the
image spans [-1, 1] in x (right) and y (down).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gsnr_toolkit.data.demo.attributes import ATTRIBUTES, BACKGROUND, CLOTHES, EYES, HAIR, SKIN, Attribute, palette

Floats = NDArray[np.float32]

_DRAWS = 256
_FACE_STREAM = 1
_EXPRESSION_STREAM = 2


@dataclass(frozen=True)
class Table:
    """Arrays with one row per face: all fields have the same first dimension."""

    def take(self, rows: Any) -> Self:
        """Return some rows of the table.

        Args:
            rows: Any NumPy index that keeps the first dimension: a slice, an index array or a boolean mask.

        Returns:
            A table of the same type with those rows.
        """
        changes: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, dict):
                changes[entry.name] = {key: item[rows] for key, item in value.items()}
            else:
                changes[entry.name] = value.take(rows) if isinstance(value, Table) else value[rows]
        return replace(self, **changes)


@dataclass(frozen=True)
class Scene(Table):
    """Position of the head, lighting, background and clothes. Angles are in radians."""

    center_x: Floats
    center_y: Floats
    roll: Floats
    scale: Floats
    yaw: Floats
    pitch: Floats
    light_x: Floats
    light_y: Floats
    light: Floats
    exposure: Floats
    backdrop: Floats
    backdrop_end: Floats
    backdrop_angle: Floats
    backdrop_pattern: Floats
    backdrop_phase: Floats
    clothes: Floats


@dataclass(frozen=True)
class Head(Table):
    """Outline and hair, which an identity swap of the inner face does not change."""

    width: Floats
    height: Floats
    jaw: Floats
    ear: Floats
    neck: Floats
    hair: Floats
    hair_style: NDArray[np.int64]
    hairline: Floats
    hair_volume: Floats
    hair_phase: Floats


@dataclass(frozen=True)
class Features(Table):
    """The inner face: eyes, brows, nose, mouth, beard, glasses and the skin between them."""

    skin: Floats
    blush: Floats
    eye_color: Floats
    eye_x: Floats
    eye_y: Floats
    eye_width: Floats
    eye_height: Floats
    eye_tilt: Floats
    brow_y: Floats
    brow_width: Floats
    brow_thickness: Floats
    brow_arch: Floats
    brow_color: Floats
    nose_y: Floats
    nose_width: Floats
    mouth_y: Floats
    mouth_width: Floats
    lip_upper: Floats
    lip_lower: Floats
    lip_color: Floats
    beard: NDArray[np.int64]
    beard_color: Floats
    glasses: NDArray[np.int64]
    glasses_color: Floats
    texture: Floats
    texture_phase: Floats


@dataclass(frozen=True)
class Expression(Table):
    """The moving parts: curve and opening of the mouth, brows, lids, gaze."""

    smile: Floats
    mouth_open: Floats
    teeth: Floats
    brow_raise: Floats
    brow_tilt: Floats
    eye_open: Floats
    gaze: Floats


@dataclass(frozen=True)
class Faces(Table):
    """A batch of procedural faces.

    Attributes:
        identity: Identity numbers, (N,).
        codes: Attribute codes by attribute name, each (N,); see :data:`.attributes.ATTRIBUTES`.
        scene: Pose, light, background, clothes.
        head: Outline and hair.
        features: Inner face.
        expression: Expression.
    """

    identity: NDArray[np.int64]
    codes: dict[str, NDArray[np.int64]]
    scene: Scene
    head: Head
    features: Features
    expression: Expression

    def __len__(self) -> int:
        return len(self.identity)


class Draws:
    """Uniform numbers for a batch of identities, from one generator per identity.

    Args:
        seed: Seed of the whole data set.
        identity: Identity numbers, (N,).
        stream: Number of the draws' purpose; different streams of an identity are independent.
    """

    def __init__(self, seed: int, identity: NDArray[np.int64], stream: int) -> None:
        rows = [np.random.default_rng([seed, stream, int(i)]).random(_DRAWS) for i in identity]
        self._numbers = np.array(rows).reshape(len(identity), _DRAWS)
        self._next = 0

    def unit(self) -> NDArray[np.float64]:
        """Draw one number in [0, 1) per identity, shape (N,)."""
        self._next += 1
        return self._numbers[:, self._next - 1]

    def uniform(self, low: float, high: float) -> Floats:
        """Draw one number in [low, high) per identity, shape (N,), float32."""
        return (low + (high - low) * self.unit()).astype(np.float32)

    def around(self, center: Any, spread: float) -> Floats:
        """Draw from a triangular distribution on ``center`` +- ``spread``, shape (N,), float32."""
        return (center + spread * (self.unit() + self.unit() - 1.0)).astype(np.float32)

    def color(self, base: NDArray[np.float64], spread: float) -> Floats:
        """Draw colours (N, 3) in [0, 1] near ``base``: brightness varies by ``spread``, channels by a third of it."""
        brightness = self.around(1.0, spread)[:, None]
        tint = np.stack([self.around(0.0, spread / 3) for _ in range(3)], axis=1)
        return np.clip(base * brightness + tint, 0.0, 1.0).astype(np.float32)


# Rows follow ATTRIBUTES["expression"]: smile, mouth_open, brow_raise, brow_tilt, eye_open.
_EXPRESSIONS = np.array(
    [
        [0.012, 0.000, 0.00, 0.00, 1.00],
        [0.075, 0.008, 0.01, 0.00, 0.92],
        [0.085, 0.085, 0.02, 0.00, 0.72],
        [-0.060, 0.000, 0.01, 0.05, 0.85],
        [-0.010, 0.105, 0.07, 0.00, 1.28],
    ]
)


def _expression(draws: Draws, codes: NDArray[np.int64]) -> Expression:
    base = _EXPRESSIONS[codes]
    return Expression(
        smile=draws.around(base[:, 0], 0.018),
        mouth_open=np.maximum(draws.around(base[:, 1], 0.02), 0.0),
        teeth=(codes <= 2).astype(np.float32) * draws.uniform(0.8, 1.0),
        brow_raise=draws.around(base[:, 2], 0.02),
        brow_tilt=draws.around(base[:, 3], 0.02),
        eye_open=draws.around(base[:, 4], 0.12),
        gaze=draws.around(0.0, 0.4),
    )


def _scene(draws: Draws, codes: dict[str, NDArray[np.int64]]) -> Scene:
    backdrop = draws.color(palette(BACKGROUND)[codes["background"]], 0.12)
    light_from = np.array([-1.0, 0.0, 1.0])[codes["light"]]
    yaw_toward = np.array([-1.0, 0.0, 1.0])[codes["pose"]]
    return Scene(
        center_x=draws.around(0.0, 0.08),
        center_y=draws.around(0.08, 0.06),
        roll=draws.around(0.0, 0.22),
        scale=draws.around(1.10, 0.09),
        yaw=draws.around(yaw_toward, 0.3),
        pitch=draws.around(0.0, 0.04),
        light_x=draws.around(light_from, 0.25),
        light_y=draws.around(-0.45, 0.3),
        light=draws.uniform(0.14, 0.30),
        exposure=draws.around(0.94, 0.34),
        backdrop=backdrop,
        backdrop_end=draws.color(0.82 * backdrop.astype(np.float64), 0.20),
        backdrop_angle=draws.uniform(0.0, 2 * np.pi),
        backdrop_pattern=draws.uniform(0.0, 4.0),
        backdrop_phase=np.stack([draws.uniform(-1.0, 1.0) for _ in range(6)], axis=1),
        clothes=draws.color(palette(CLOTHES)[codes["clothes"]], 0.10),
    )


def _head(draws: Draws, codes: dict[str, NDArray[np.int64]]) -> Head:
    return Head(
        width=draws.around(0.475, 0.055),
        height=draws.around(0.635, 0.050),
        jaw=draws.uniform(0.02, 0.30),
        ear=draws.around(0.105, 0.03),
        neck=draws.around(0.27, 0.05),
        hair=draws.color(palette(HAIR)[codes["hair_color"]], 0.14),
        hair_style=codes["hair_style"],
        hairline=draws.around(-0.40, 0.07),
        hair_volume=draws.uniform(0.05, 0.13),
        hair_phase=np.stack([draws.uniform(0.0, 1.0) for _ in range(3)], axis=1),
    )


def _features(draws: Draws, codes: dict[str, NDArray[np.int64]], hair: Floats) -> Features:
    skin = draws.color(palette(SKIN)[codes["skin"]], 0.08)
    lip = np.clip(skin * np.array([0.92, 0.60, 0.60]) + np.array([0.02, -0.02, 0.0]), 0, 1)
    eye_y = draws.around(-0.07, 0.035)
    frame = draws.unit()[:, None] < 0.6
    return Features(
        skin=skin,
        blush=draws.uniform(0.0, 0.35),
        eye_color=draws.color(palette(EYES)[codes["eyes"]], 0.12),
        eye_x=draws.around(0.205, 0.030),
        eye_y=eye_y,
        eye_width=draws.around(0.125, 0.022),
        eye_height=draws.around(0.064, 0.016),
        eye_tilt=draws.around(0.0, 0.025),
        brow_y=draws.around(eye_y - 0.145, 0.025),
        brow_width=draws.around(0.145, 0.02),
        brow_thickness=draws.uniform(0.020, 0.042),
        brow_arch=draws.uniform(0.01, 0.05),
        brow_color=np.clip(hair * 0.72 + 0.02, 0, 1).astype(np.float32),
        nose_y=draws.around(0.155, 0.03),
        nose_width=draws.around(0.088, 0.022),
        mouth_y=draws.around(0.345, 0.025),
        mouth_width=draws.around(0.190, 0.035),
        lip_upper=draws.uniform(0.022, 0.042),
        lip_lower=draws.uniform(0.034, 0.062),
        lip_color=draws.color(lip, 0.14),
        beard=codes["beard"],
        beard_color=np.clip(hair * 0.85 + 0.01, 0, 1).astype(np.float32),
        glasses=codes["glasses"],
        glasses_color=np.where(frame, draws.color(np.full((len(skin), 3), 0.14), 0.1), draws.color(lip, 0.3)),
        texture=draws.uniform(0.010, 0.028),
        texture_phase=np.stack([draws.uniform(0.0, 1.0) for _ in range(6)], axis=1),
    )


def sample_faces(
    identity: Sequence[int] | NDArray[np.int64], seed: int = 0, attributes: Mapping[str, Attribute] = ATTRIBUTES
) -> Faces:
    """Draw faces by identity number.

    Args:
        identity: Identity numbers, non-negative, (N,).
        seed: Seed of the whole data set.
        attributes: The attributes and their frequencies, in the order of :data:`.attributes.ATTRIBUTES`; other
            populations have other frequencies of the same values.

    Returns:
        The faces, in the order of ``identity``.

    Raises:
        ValueError: If an identity or the seed is negative.

    >>> both, alone = sample_faces([3, 8]), sample_faces([8])
    >>> bool(both.features.eye_x[1] == alone.features.eye_x[0])
    True
    """
    identity = np.asarray(identity, dtype=np.int64).reshape(-1)
    if seed < 0 or (identity < 0).any():
        lowest = min(seed, int(identity.min(initial=0)))
        raise ValueError(f"expected seed and identity to be non-negative, got {lowest}; pass 0 or more")
    # The order of all draws below is part of the data: another order gives other faces.
    draws = Draws(seed, identity, _FACE_STREAM)
    codes = {name: attribute.codes(draws.unit()) for name, attribute in attributes.items()}
    head = _head(draws, codes)
    scene = _scene(draws, codes)
    features = _features(draws, codes, head.hair)
    return Faces(identity, codes, scene, head, features, _expression(draws, codes["expression"]))


def other_expression(faces: Faces, seed: int = 0) -> Faces:
    """Return the same faces with a new expression drawn from the population.

    The new expression follows the distribution of the expressions of real faces, so that the expression itself does
    not reveal a forgery. It may resemble the old one by chance.

    Args:
        faces: Faces to change.
        seed: Seed of the whole data set.

    Returns:
        The faces with ``expression`` replaced; ``codes`` still describe the original.
    """
    draws = Draws(seed, faces.identity, _EXPRESSION_STREAM)
    codes = ATTRIBUTES["expression"].codes(draws.unit())
    return replace(faces, expression=_expression(draws, codes))
