"""Forgeries for testing only: a finer face swap than the training families have, and a mixture of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gsnr_toolkit.data.demo.camera import correlate, gaussian_blur, lens, noise_level, white_noise
from gsnr_toolkit.data.demo.faces import Draws, Floats
from gsnr_toolkit.data.demo.forgeries import FORGERIES, Shot, blend, donors, inner_face_mask
from gsnr_toolkit.data.demo.render import render

_MIX_STREAM = 7
_PATCH_NOISE_STREAM = 14
_PATCH_RESOLUTION = 0.80
_PATCH_SHARPENING = 1.1
_SMALLEST_FACE = 16


def enlarge(images: Floats, size: int) -> Floats:
    """Enlarge images bilinearly, with pixel centres aligned.

    Args:
        images: Images (N, C, s, s).
        size: New width and height.

    Returns:
        Images (N, C, size, size).

    >>> enlarge(np.array([[[[0.0, 1.0], [0.0, 1.0]]]], dtype=np.float32), 4)[0, 0, 0].tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    small = images.shape[-1]
    at = np.clip((np.arange(size) + 0.5) * (small / size) - 0.5, 0, small - 1)
    low = np.minimum(at.astype(int), max(small - 2, 0))
    high = np.minimum(low + 1, small - 1)
    share = (at - low).astype(np.float32)
    rows = images[:, :, low] + share[:, None] * (images[:, :, high] - images[:, :, low])
    return rows[..., low] + share * (rows[..., high] - rows[..., low])


def _mean_inside(images: Floats, mask: Floats) -> Floats:
    total = (images * mask[:, None]).sum(axis=(2, 3))
    return (total / mask.sum(axis=(1, 2))[:, None])[:, :, None, None]


def fine_swap(shot: Shot, strength: float) -> tuple[Floats, Floats]:
    """``cdf``: swap identities as in Celeb-DF, with matched colours, a wide blend and a patch of lower resolution.

    Args:
        shot: Real photographs.
        strength: Scales how much of the donor's skin tone remains, and how much resolution the patch loses.

    Returns:
        Forged images before development, and the mask of the forged region.
    """
    swapped = replace(shot.faces, features=donors(shot, 0.8 * strength))
    share = 1 - (1 - _PATCH_RESOLUTION) * min(strength, 1.5)
    small = min(shot.size, max(_SMALLEST_FACE, round(shot.size * share)))
    clean = lens(enlarge(render(swapped, small), shot.size), shot.camera)
    width = np.full(len(shot.faces), shot.size / 64, dtype=np.float32)
    clean = clean + np.float32(_PATCH_SHARPENING * strength) * (clean - gaussian_blur(clean, width))
    mask = inner_face_mask(swapped, shot.size, softness=0.16)
    clean = clean + 0.7 * (_mean_inside(shot.image, mask) - _mean_inside(clean, mask))
    noise = correlate(white_noise(shot.faces.identity, shot.size, shot.seed, _PATCH_NOISE_STREAM))
    # Blending averages the photograph's noise away; add as much new noise, so that no seam shows in the noise.
    lost = np.sqrt(1 - (1 - mask) ** 2)[:, None]
    level = noise_level(np.clip(clean, 0, 1), shot.camera)
    return blend(mask, clean, shot.image) + lost * level * noise, mask


def mixture(shot: Shot, strength: float) -> tuple[Floats, Floats]:
    """``dfdc``: forge each face in one of the four ways of FaceForensics++, drawn at random.

    Args:
        shot: Real photographs.
        strength: Passed on to the forgery.

    Returns:
        Forged images before development, and the mask of the forged region.
    """
    draws = Draws(shot.seed, shot.faces.identity, _MIX_STREAM)
    choice = (draws.unit() * len(FORGERIES)).astype(int)
    forged = shot.image.copy()
    mask = np.zeros((len(shot.faces), shot.size, shot.size), dtype=np.float32)
    for number, forge in enumerate(FORGERIES.values()):
        rows = np.flatnonzero(choice == number)
        if len(rows):
            part = Shot(shot.faces.take(rows), shot.camera.take(rows), shot.image[rows], shot.seed)
            forged[rows], mask[rows] = forge(part, strength)
    return forged, mask
