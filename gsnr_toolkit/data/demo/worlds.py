"""Worlds: a population of faces, a camera, and the processing of every image afterwards.

A detector that is trained in one world and tested in another faces the embedded counterpart of a cross-dataset test:
the real images differ too, in skin, light, lens, noise and compression. Each world has its own identity numbers, so
that no person is in two worlds.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gsnr_toolkit.data.demo.attributes import ATTRIBUTES, Attribute
from gsnr_toolkit.data.demo.camera import Camera, Pixels, develop, eight_bits, sample_cameras, white_noise
from gsnr_toolkit.data.demo.faces import Draws, Faces, Floats, sample_faces
from gsnr_toolkit.data.demo.forgeries import Shot, photograph

_TINT_STREAM = 6
_TRANSPORT_STREAM = 8
_TRANSPORT_NOISE_STREAM = 13

Finish = Callable[[Floats, Shot], Pixels]
Sampler = Callable[[NDArray[np.int64], int], tuple[Faces, Camera]]


@dataclass(frozen=True)
class World:
    """A population, its cameras, and the processing of its images.

    Attributes:
        sample: Maps ``(identity, seed)`` to faces and cameras.
        finish: Maps ``(images, shot)``, exposed images that are real or forged, to pixels. Both images of a pair are
            processed with the same random numbers.
        offset: Added to the identity numbers of a split.
    """

    sample: Sampler
    finish: Finish
    offset: int = 0

    def shoot(self, identity: NDArray[np.int64], size: int, seed: int) -> Shot:
        """Photograph people of this world.

        Args:
            identity: Identity numbers of a split, (N,).
            size: Width and height in pixels.
            seed: Seed of the whole data set.

        Returns:
            Exposed photographs.
        """
        faces, camera = self.sample(identity + self.offset, seed)
        return photograph(faces, camera, size, seed)


def _other_weights(**weights: tuple[float, ...]) -> MappingProxyType[str, Attribute]:
    changed = {name: replace(ATTRIBUTES[name], weights=values) for name, values in weights.items()}
    return MappingProxyType({**ATTRIBUTES, **changed})


# Frequencies of pale, fair, tan, brown, dark; and of light from the left, the front, the right.
_CELEBRITIES = _other_weights(skin=(0.30, 0.36, 0.20, 0.09, 0.05), light=(0.15, 0.70, 0.15))
_VOLUNTEERS = _other_weights(skin=(0.10, 0.14, 0.20, 0.28, 0.28), light=(0.47, 0.06, 0.47))


def _at_home(identity: NDArray[np.int64], seed: int) -> tuple[Faces, Camera]:
    faces = sample_faces(identity, seed)
    return faces, sample_cameras(faces, seed)


def _on_stage(identity: NDArray[np.int64], seed: int) -> tuple[Faces, Camera]:
    # Interviews on film: bright, even light, a better lens, less noise, medium compression.
    faces = sample_faces(identity, seed, _CELEBRITIES)
    scene = replace(faces.scene, exposure=faces.scene.exposure * np.float32(1.08), light=faces.scene.light * 0.6)
    faces = replace(faces, scene=scene)
    camera = sample_cameras(faces, seed)
    sharper = replace(camera, blur=camera.blur * 0.8, read=camera.read * 0.6, shot=camera.shot * 0.7)
    return faces, replace(sharper, quality=np.clip(camera.quality - 8, 30, 90))


def _by_telephone(identity: NDArray[np.int64], seed: int) -> tuple[Faces, Camera]:
    # Telephone videos: dim or harsh light, a small lens, a noisy sensor.
    faces = sample_faces(identity, seed, _VOLUNTEERS)
    scene = replace(faces.scene, exposure=faces.scene.exposure * np.float32(0.85), light=faces.scene.light * 1.4)
    faces = replace(faces, scene=scene)
    camera = sample_cameras(faces, seed)
    return faces, replace(camera, blur=camera.blur * 1.15, read=camera.read * 1.4, shot=camera.shot * 1.3)


def _plainly(images: Floats, shot: Shot) -> Pixels:
    return develop(images, shot.camera.quality)


def _tinted(images: Floats, shot: Shot) -> Pixels:
    # White balance from warm to cool, as studio lights and colour grading set it.
    draws = Draws(shot.seed, shot.faces.identity, _TINT_STREAM)
    warmth = draws.around(0.03, 0.09)
    gain = np.stack([1 + warmth, np.ones_like(warmth), 1 - warmth], axis=1)
    return develop(images * gain[:, :, None, None], shot.camera.quality)


def _transported(images: Floats, shot: Shot) -> Pixels:
    # The processing of a video platform: scale down, add noise, compress strongly, scale up again.
    size, draws = shot.size, Draws(shot.seed, shot.faces.identity, _TRANSPORT_STREAM)
    small = np.rint(size * draws.uniform(0.50, 0.85)).astype(int)
    quality = draws.uniform(25, 60).astype(int)
    level = draws.uniform(0.004, 0.022)[:, None, None, None]
    noise = white_noise(shot.faces.identity, size, shot.seed, _TRANSPORT_NOISE_STREAM)
    rows = zip(eight_bits(images + level * noise), small, quality, strict=True)
    return np.stack([_through_a_platform(image, int(side), int(q)) for image, side, q in rows])


def _through_a_platform(pixels: Pixels, side: int, quality: int) -> Pixels:
    size = (pixels.shape[1], pixels.shape[0])
    with io.BytesIO() as buffer:
        Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer).convert("RGB").resize(size, Image.Resampling.BICUBIC))


HOME = World(_at_home, _plainly)
"""The world of ``demo-df``, ``demo-fs``, ``demo-f2f``, ``demo-nt``, ``demo-gan`` and ``demo-diff``."""

STAGE = World(_on_stage, _tinted, offset=1 << 41)
"""The world of ``demo-cdf``: lighter skin, bright and even light, a better camera, white balance."""

TELEPHONE = World(_by_telephone, _transported, offset=1 << 42)
"""The world of ``demo-dfdc``: darker skin, dim side light, a noisy camera; resized and strongly compressed."""
