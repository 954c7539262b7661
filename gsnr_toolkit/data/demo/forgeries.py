"""Four ways to forge a procedural face, modelled on FaceForensics++ (Rössler et al., ICCV 2019).

From visible to nearly invisible: ``df`` swaps the identity of the inner face and blends it softly; ``fs`` pastes a
warped donor with a hard edge and another colour; ``f2f`` re-renders the same identity with another expression; ``nt``
passes only the mouth through a low-pass "neural renderer" and adds new noise. The renderer of the last two leaves a
faint checkerboard, as upsampling layers do. Every forgery works on the exposed photograph and is developed with the
camera settings of that photograph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from gsnr_toolkit.data.demo.camera import (
    Camera,
    correlate,
    expose,
    gaussian_blur,
    lens,
    noise_level,
    white_noise,
)
from gsnr_toolkit.data.demo.canvas import Canvas
from gsnr_toolkit.data.demo.faces import Draws, Faces, Features, Floats, other_expression, sample_faces
from gsnr_toolkit.data.demo.layout import layout
from gsnr_toolkit.data.demo.render import head_distance, render

_DONOR_STREAM = 4
_WARP_STREAM = 5
_NOISE_STREAM = 11
_FORGED_NOISE_STREAM = 12

# Tuned on checkpoints of the demo model, so that the mouth stays hard for a linear probe on frozen features. How soon
# full fine-tuning finds it depends on the starting weights (docs/data-demo.md). The blur is in pixels of a 64-pixel
# image, the residue is a share of the intensity.
_NT_BLUR = 1.05
_NT_RESIDUE = 0.09
_F2F_RESIDUE = 0.03

DONOR_OFFSET = 1 << 40
"""First identity number of the donors of identity swaps, beyond the numbers of all splits."""


@dataclass(frozen=True)
class Shot:
    """Photographs of real faces before development, with everything that a forgery needs.

    Attributes:
        faces: The faces, N of them.
        camera: Their cameras.
        image: Exposed images (N, 3, S, S), not clipped.
        seed: Seed of the whole data set.
    """

    faces: Faces
    camera: Camera
    image: Floats
    seed: int

    @property
    def size(self) -> int:
        """Width and height in pixels."""
        return int(self.image.shape[-1])


Forgery = Callable[[Shot, float], tuple[Floats, Floats]]


def photograph(faces: Faces, camera: Camera, size: int, seed: int) -> Shot:
    """Render and expose real faces.

    Args:
        faces: The faces.
        camera: Their cameras.
        size: Width and height in pixels.
        seed: Seed of the whole data set.

    Returns:
        The shot.
    """
    image = expose(render(faces, size), camera, faces.identity, seed, _NOISE_STREAM)
    return Shot(faces, camera, image, seed)


def blend(mask: Floats, inner: Floats, outer: Floats) -> Floats:
    """Blend one image into another.

    Args:
        mask: Share of the inner image at each pixel, (N, S, S) in [0, 1].
        inner: Images (N, 3, S, S).
        outer: Images of the same shape.

    Returns:
        ``mask inner + (1 - mask) outer``.
    """
    return outer + mask[:, None] * (inner - outer)


def inner_face_mask(faces: Faces, size: int, softness: float) -> Floats:
    """Return the mask of the inner face: a rounded box from above the brows to below the mouth, inside the head.

    Args:
        faces: The faces, N of them.
        size: Width and height in pixels.
        softness: Width of the transition in image half-widths; 0 for a hard, anti-aliased edge.

    Returns:
        Mask (N, size, size) in [0, 1].
    """
    plan, canvas = layout(faces), Canvas(faces, size)
    top = np.minimum(*(brow.y - np.abs(brow.tilt) for brow in plan.brows)) - 0.06
    bottom = np.minimum(plan.lips.y + plan.lips.lower + 0.12, faces.head.height * np.float32(0.97))
    middle, half = (top + bottom) / 2, (bottom - top) / 2
    patch, whole = canvas.at(plan.nose_x * np.float32(0.4), middle, 4.0), canvas.whole()
    box = patch.rounded_box(faces.head.width * np.float32(0.88), half)
    distance = np.minimum(box, head_distance(whole, faces)[0] - np.float32(0.045))
    return np.clip(distance / softness, 0, 1) if softness > 0 else whole.cover(distance)


def mouth_mask(faces: Faces, size: int) -> Floats:
    """Return the mask of the mouth: a soft oval.

    Args:
        faces: The faces, N of them.
        size: Width and height in pixels.

    Returns:
        Mask (N, size, size) in [0, 1].
    """
    lips, canvas = layout(faces).lips, Canvas(faces, size)
    patch = canvas.at(lips.x, lips.y, 4.0)
    tall = (lips.upper + lips.lower) * np.float32(0.5) + np.abs(lips.bend) + np.float32(0.10)
    return np.clip(patch.ellipse(lips.half_width + np.float32(0.09), tall) / np.float32(0.06), 0, 1)


def donors(shot: Shot, strength: float) -> Features:
    """Draw a donor for each face and shift its skin tone towards the target's, as face-swap programs do.

    Args:
        shot: The photographs whose faces are replaced; their glasses are kept.
        strength: Scales how much of the donor's skin tone remains.

    Returns:
        Inner faces of identities that are in no split.
    """
    draws = Draws(shot.seed, shot.faces.identity, _DONOR_STREAM)
    number = (draws.unit() * (1 << 32)).astype(np.int64) + DONOR_OFFSET
    donor, own = sample_faces(number, shot.seed).features, shot.faces.features
    keep = np.float32(max(0.0, 1 - 0.55 * strength))
    return replace(
        donor,
        skin=np.clip(donor.skin + keep * (own.skin - donor.skin), 0, 1),
        glasses=own.glasses,
        glasses_color=own.glasses_color,
    )


def identity_swap(shot: Shot, strength: float) -> tuple[Floats, Floats]:
    """``df``: replace the inner face by another person's, in the same pose and light, with a soft blend.

    Args:
        shot: Real photographs.
        strength: Scales how much of the donor's skin tone remains.

    Returns:
        Forged images before development, and the mask of the forged region.
    """
    swapped = replace(shot.faces, features=donors(shot, strength))
    image = render(swapped, shot.size)
    inner = expose(image, shot.camera, shot.faces.identity, shot.seed, _FORGED_NOISE_STREAM)
    mask = inner_face_mask(swapped, shot.size, softness=0.09)
    return blend(mask, inner, shot.image), mask


def face_paste(shot: Shot, strength: float) -> tuple[Floats, Floats]:
    """``fs``: paste the inner face of a donor, slightly displaced, with a hard edge and another colour.

    Args:
        shot: Real photographs.
        strength: Scales the displacement and the colour mismatch, whose sign is random.

    Returns:
        Forged images before development, and the mask of the forged region.
    """
    faces, draws = shot.faces, Draws(shot.seed, shot.faces.identity, _WARP_STREAM)
    by = np.float32(strength)
    scene = replace(
        faces.scene,
        center_x=faces.scene.center_x + by * draws.around(0.0, 0.05),
        center_y=faces.scene.center_y + by * draws.around(0.0, 0.05),
        roll=faces.scene.roll + by * draws.around(0.0, 0.12),
        scale=faces.scene.scale * (1 + by * draws.around(0.0, 0.08)),
    )
    swapped = replace(faces, features=donors(shot, 0.4 * strength), scene=scene)
    gain = 1 + by * np.stack([draws.around(0.0, 0.14) for _ in range(3)], axis=1)
    image = render(swapped, shot.size) * gain[:, :, None, None]
    inner = expose(np.clip(image, 0, 1), shot.camera, faces.identity, shot.seed, _FORGED_NOISE_STREAM)
    mask = inner_face_mask(swapped, shot.size, softness=0.0)
    return blend(mask, inner, shot.image), mask


def upsampling_pattern(size: int) -> Floats:
    """Return the checkerboard that two stride-2 transposed convolutions leave (Odena et al., Distill 2016).

    Args:
        size: Width and height in pixels.

    Returns:
        Pattern (size, size) of +1 and -1 with a period of four pixels.

    >>> upsampling_pattern(4)[0].tolist()
    [1.0, 1.0, -1.0, -1.0]
    """
    wave = np.where(np.arange(size) % 4 < 2, 1.0, -1.0).astype(np.float32)
    return wave[:, None] * wave[None, :]


def _resynthesize(clean: Floats, shot: Shot, white: float, residue: float) -> Floats:
    """Add the traces of a neural renderer: the faint checkerboard of its upsampling, and new noise."""
    clean = clean * (1 + np.float32(residue) * upsampling_pattern(shot.size))
    noise = synthetic_noise(shot, white, _FORGED_NOISE_STREAM)
    return clean + noise_level(np.clip(clean, 0, 1), shot.camera) * noise


def synthetic_noise(shot: Shot, white: float, stream: int) -> Floats:
    """Draw unit noise of which a share of the variance lacks the correlation of a sensor.

    Args:
        shot: Real photographs.
        white: The uncorrelated share of the variance, in [0, 1].
        stream: Stream of the noise.

    Returns:
        Noise (N, 3, S, S).
    """
    fresh = white_noise(shot.faces.identity, shot.size, shot.seed, stream)
    return np.float32(np.sqrt(white)) * fresh + np.float32(np.sqrt(1 - white)) * correlate(fresh[:, ::-1])


def reenactment(shot: Shot, strength: float) -> tuple[Floats, Floats]:
    """``f2f``: re-render the same person with another expression, smoother than a photograph.

    Args:
        shot: Real photographs.
        strength: Scales the change of expression, the loss of skin texture and the checkerboard.

    Returns:
        Forged images before development, and the mask of the forged region.
    """
    faces, by = shot.faces, np.float32(strength)
    new, old = other_expression(faces, shot.seed).expression, faces.expression
    moved = replace(
        new, **{name: getattr(old, name) + by * (getattr(new, name) - getattr(old, name)) for name in vars(new)}
    )
    smooth = replace(faces.features, texture=faces.features.texture * max(0.0, 1 - strength))
    clean = lens(render(replace(faces, expression=moved, features=smooth), shot.size), shot.camera)
    clean = gaussian_blur(clean, _pixels(shot, 0.5 * strength))
    inner = _resynthesize(clean, shot, white=min(1.0, 0.5 * strength), residue=_F2F_RESIDUE * strength)
    mask = inner_face_mask(faces, shot.size, softness=0.06)
    return blend(mask, inner, shot.image), mask


def mouth_rendering(shot: Shot, strength: float) -> tuple[Floats, Floats]:
    """``nt``: pass the mouth region through a low-pass renderer and add new noise.

    Args:
        shot: Real photographs.
        strength: Scales the width of the low-pass filter, the checkerboard and the whiteness of the new noise.

    Returns:
        Forged images before development, and the mask of the forged region.
    """
    smooth = gaussian_blur(shot.image, _pixels(shot, _NT_BLUR * strength))
    inner = _resynthesize(smooth, shot, white=min(1.0, strength), residue=_NT_RESIDUE * strength)
    mask = mouth_mask(shot.faces, shot.size)
    return blend(mask, inner, shot.image), mask


def _pixels(shot: Shot, sigma: float) -> Floats:
    """Convert a width in pixels of a 64-pixel image to pixels of these images, one per face."""
    return np.full(len(shot.faces), sigma * shot.size / 64, dtype=np.float32)


FORGERIES: MappingProxyType[str, Forgery] = MappingProxyType(
    {"df": identity_swap, "fs": face_paste, "f2f": reenactment, "nt": mouth_rendering}
)
"""The forgery families by name, from the most to the least visible."""
