"""A simple camera model: lens blur, sensor noise after demosaicing, and JPEG.

The camera has two stages, because a forger works between them. :func:`expose` models what happens before an image can
be forged: blur and sensor noise. :func:`develop` models what happens to real and forged images alike afterwards:
quantisation to 8 bits and JPEG. Noise is signal-dependent, ``sigma^2(I) = read^2 + shot^2 I`` per channel, and
correlated over neighbouring pixels and channels, because interpolation of the colour filter array smooths it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gsnr_toolkit.data.demo.attributes import Attribute
from gsnr_toolkit.data.demo.faces import Draws, Faces, Floats, Table

Pixels = NDArray[np.uint8]

_CAMERA_STREAM = 3
_REFERENCE_SIZE = 64

PHOTOGRAPHIC: MappingProxyType[str, Attribute] = MappingProxyType(
    {
        attribute.name: attribute
        for attribute in (
            Attribute("grain", ("clean", "grainy"), (0.70, 0.30)),
            Attribute("blur", ("sharp", "blurry"), (0.75, 0.25)),
            Attribute("compression", ("high quality", "low quality"), (0.75, 0.25)),
            Attribute("lighting", ("dim", "normal", "bright"), (0.25, 0.50, 0.25)),
        )
    }
)
"""Photographic attributes of an image; the semantic ones describe the face."""


@dataclass(frozen=True)
class Camera(Table):
    """Settings of the camera, one row per image.

    Attributes:
        blur: Standard deviation of the lens blur, in pixels of a 64-pixel image, (N,).
        read: Standard deviation of the signal-independent noise, on the [0, 1] scale, (N,).
        shot: Square root of the noise variance per unit of intensity, (N,).
        quality: JPEG quality, (N,).
        codes: Photographic attributes by name, (N,) each; see :data:`PHOTOGRAPHIC`.
    """

    blur: Floats
    read: Floats
    shot: Floats
    quality: NDArray[np.int64]
    codes: dict[str, NDArray[np.int64]]


def sample_cameras(faces: Faces, seed: int = 0) -> Camera:
    """Draw the camera of each face, independently of its attributes.

    Args:
        faces: The faces, N of them; their exposure determines the attribute lighting.
        seed: Seed of the whole data set.

    Returns:
        The settings.
    """
    draws = Draws(seed, faces.identity, _CAMERA_STREAM)
    names = ("grain", "blur", "compression")
    codes = {name: PHOTOGRAPHIC[name].codes(draws.unit()) for name in names}
    codes["lighting"] = np.digitize(faces.scene.exposure, (0.84, 1.04)).astype(np.int64)
    grainy, blurry, coarse = (codes[name] == 1 for name in names)
    return Camera(
        blur=np.where(blurry, draws.uniform(0.65, 1.00), draws.uniform(0.20, 0.45)),
        read=np.where(grainy, draws.uniform(0.016, 0.030), draws.uniform(0.004, 0.010)),
        shot=np.where(grainy, draws.uniform(0.022, 0.040), draws.uniform(0.008, 0.020)),
        quality=np.where(coarse, draws.uniform(35, 60), draws.uniform(80, 98)).astype(np.int64),
        codes=codes,
    )


def gaussian_blur(images: Floats, sigma: Floats) -> Floats:
    """Blur each image with a Gaussian of its own width; edges are replicated.

    Args:
        images: Images (N, C, H, W).
        sigma: Standard deviations in pixels, (N,); 0 leaves an image unchanged.

    Returns:
        Blurred images of the same shape.

    >>> flat = np.full((1, 3, 8, 8), 0.5, dtype=np.float32)
    >>> bool(np.allclose(gaussian_blur(flat, np.array([1.0])), flat))
    True
    """
    radius = max(1, int(np.ceil(2.5 * float(np.max(sigma, initial=0.0)))))
    offsets = np.arange(-radius, radius + 1)
    scaled = offsets[None, :] / np.maximum(np.asarray(sigma, dtype=np.float64), 1e-3)[:, None]
    inside = np.abs(scaled) <= 2.5
    weights = np.where(inside, np.exp(-0.5 * scaled**2), 0.0)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    for axis in (2, 3):
        images = _convolve(images, weights, axis)
    return images


def _convolve(images: Floats, weights: Floats, axis: int) -> Floats:
    """Convolve along one axis with symmetric weights, edges replicated."""
    # Both neighbours at distance k share a weight, w_k (left + right): cheaper, and the order of sums is fixed, so
    # that pixels are the same bit for bit in every batch.
    radius = weights.shape[1] // 2
    pad = [(0, 0)] * 4
    pad[axis] = (radius, radius)
    padded = np.pad(images, pad, mode="edge")
    length = images.shape[axis]

    def tap(offset: int) -> Floats:
        window = [slice(None)] * 4
        window[axis] = slice(radius + offset, radius + offset + length)
        return padded[tuple(window)]

    total = tap(0) * weights[:, radius, None, None, None]
    for offset in range(1, radius + 1):
        total += weights[:, radius + offset, None, None, None] * (tap(-offset) + tap(offset))
    return total


_SMOOTHING = np.array(
    [0.26, 0.15, 0.26], dtype=np.float32
)  # red and blue have fewer samples, so they are smoothed more
_SHARED = np.float32(0.55)  # weight of green's noise in the noise of red and blue


def white_noise(identity: NDArray[np.int64], size: int, seed: int, stream: int) -> Floats:
    """Draw unit white noise with one random generator per image.

    Args:
        identity: Identity numbers, (N,).
        size: Width and height in pixels.
        seed: Seed of the whole data set.
        stream: Number of the noise's purpose; different streams are independent.

    Returns:
        Noise (N, 3, size, size), float32, standard normal.
    """
    rows = [
        np.random.default_rng([seed, stream, int(i), size]).standard_normal((3, size, size), np.float32)
        for i in identity
    ]
    return np.stack(rows)


def correlate(noise: Floats) -> Floats:
    """Give white noise the correlation that demosaicing causes; its variance stays one.

    Red and blue share a part of their noise with green. Each channel is smoothed by ``[a, 1 - 2a, a]`` along rows and
    columns, with a larger ``a`` for red and blue, whose samples are sparser.

    Args:
        noise: White noise (N, 3, H, W).

    Returns:
        Correlated noise of unit variance (away from the border) and the same shape.
    """
    mixed = noise * np.sqrt(1 - _SHARED**2)
    mixed += _SHARED * noise[:, 1:2]
    mixed[:, 1] = noise[:, 1]
    for axis in (2, 3):
        padded = np.pad(mixed, [(0, 0), (0, 0), *((1, 1) if a == axis else (0, 0) for a in (2, 3))], "wrap")
        low, high = (padded[:, :, :-2], padded[:, :, 2:]) if axis == 2 else (padded[..., :-2], padded[..., 2:])
        side = _SMOOTHING[:, None, None]
        mixed = (mixed * (1 - 2 * side) + (low + high) * side) / np.sqrt((1 - 2 * side) ** 2 + 2 * side**2)
    return mixed


def noise_level(images: Floats, camera: Camera) -> Floats:
    """Compute the standard deviation of the sensor noise at each pixel, ``sqrt(read^2 + shot^2 I)``.

    Args:
        images: Noise-free intensities (N, 3, H, W) in [0, 1].
        camera: Settings, N rows.

    Returns:
        Standard deviations of the same shape.
    """
    read, shot = (v[:, None, None, None].astype(np.float32) for v in (camera.read, camera.shot))
    return np.sqrt(read * read + shot * shot * images)


def lens(images: Floats, camera: Camera) -> Floats:
    """Blur images with the camera's lens; the width in pixels is proportional to the image size.

    Args:
        images: Images (N, 3, S, S).
        camera: Settings, N rows.

    Returns:
        Blurred images.
    """
    return gaussian_blur(images, camera.blur * (images.shape[-1] / _REFERENCE_SIZE))


def expose(images: Floats, camera: Camera, identity: NDArray[np.int64], seed: int, stream: int) -> Floats:
    """Apply the first stage of the camera: lens and sensor.

    Args:
        images: Rendered images (N, 3, S, S) in [0, 1].
        camera: Settings, N rows.
        identity: Identity numbers, (N,), which determine the noise.
        seed: Seed of the whole data set.
        stream: Stream of the noise.

    Returns:
        Noisy images, not clipped.
    """
    seen = lens(images, camera)
    noise = correlate(white_noise(identity, images.shape[-1], seed, stream))
    return seen + noise_level(seen, camera) * noise


def develop(images: Floats, quality: Sequence[int] | NDArray[np.int64]) -> Pixels:
    """Apply the second stage of the camera: 8 bits and JPEG, the same for real and forged images.

    Args:
        images: Images (N, 3, S, S), nominally in [0, 1].
        quality: JPEG quality of each, (N,).

    Returns:
        Pixels (N, S, S, 3), uint8.

    >>> develop(np.zeros((2, 3, 16, 16), dtype=np.float32), [90, 50]).shape
    (2, 16, 16, 3)
    """
    return np.stack([_through_jpeg(image, int(q)) for image, q in zip(eight_bits(images), quality, strict=True)])


def eight_bits(images: Floats) -> Pixels:
    """Clip and round images (N, 3, S, S), nominally in [0, 1], to pixels (N, S, S, 3), uint8."""
    scaled = np.clip(images, 0, 1) * np.float32(255) + np.float32(0.5)
    return np.ascontiguousarray(scaled.astype(np.uint8).transpose(0, 2, 3, 1))


def _through_jpeg(pixels: Pixels, quality: int) -> Pixels:
    with io.BytesIO() as buffer:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0 if quality > 75 else 2)
        return np.asarray(Image.open(buffer).convert("RGB"))
